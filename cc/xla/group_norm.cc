// GroupNorm and GroupNormGrad under XLA.
#include "op/group_norm.h"
#include "xla/custom_call.h"

namespace tfgn {
namespace {

[[maybe_unused]] const bool registered =
    Register<GroupNormOp>("GroupNorm") && Register<GroupNormGradOp>("GroupNormGrad");

}  // namespace
}  // namespace tfgn
