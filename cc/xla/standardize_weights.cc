// StandardizeWeights and StandardizeWeightsGrad under XLA.
#include "op/standardize_weights.h"
#include "xla/custom_call.h"

namespace tfgn {
namespace {

[[maybe_unused]] const bool registered =
    Register<StandardizeWeightsOp>("StandardizeWeights") &&
    Register<StandardizeWeightsGradOp>("StandardizeWeightsGrad");

}  // namespace
}  // namespace tfgn
