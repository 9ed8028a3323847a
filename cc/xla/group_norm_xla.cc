// GroupNorm and GroupNormGrad under XLA.
#include "tf/group_norm_op.h"
#include "xla/custom_call.h"

namespace tfgn {
namespace {

[[maybe_unused]] const bool registered =
    Register<GroupNormOp>("GroupNorm") && Register<GroupNormGradOp>("GroupNormGrad");

}  // namespace
}  // namespace tfgn
