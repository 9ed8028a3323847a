#include "op/group_norm.h"

#include "tensorflow/core/framework/op.h"
#include "tf/infer.h"
#include "tf/kernel.h"

namespace tfgn {
namespace {

absl::Status InferForward(InferenceContext* c) {
  using Op = GroupNormOp;
  GroupNormShape shape;
  ShapeHandle x;
  absl::InlinedVector<int, 1> alike;
  if (c->num_inputs() > Op::kSideInput) alike.push_back(Op::kSideInput);
  TF_RETURN_IF_ERROR(Infer<Op>(c, Op::kX, alike, &shape, &x));
  c->set_output(Op::kY, x);
  const auto n = c->RankKnown(x) ? c->Dim(x, 0) : c->UnknownDim();
  const ShapeHandle statistics = c->Matrix(n, shape.groups);
  c->set_output(Op::kMean, statistics);
  c->set_output(Op::kRstd, statistics);
  if (shape.has_rest) {
    c->set_output(Op::kRest, c->MakeShape({n, c->MakeDim(2), c->MakeDim(shape.groups)}));
  }
  return absl::OkStatus();
}

absl::Status InferGradient(InferenceContext* c) {
  using Op = GroupNormGradOp;
  GroupNormShape shape;
  ShapeHandle x;
  absl::InlinedVector<int, 2> alike = {Op::kDy};
  int64_t num_side_inputs = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("num_side_inputs", &num_side_inputs));
  if (num_side_inputs > 0) alike.push_back(Op::kSideInput);
  TF_RETURN_IF_ERROR(Infer<Op>(c, Op::kX, alike, &shape, &x));
  c->set_output(Op::kDx, x);
  c->set_output(Op::kDgamma, c->input(Op::kGamma));
  c->set_output(Op::kDbeta, c->input(Op::kBeta));
  if (shape.has_side_input) c->set_output(Op::kDside, x);
  if (shape.with_y) c->set_output(Op::OutputY(shape), x);
  return absl::OkStatus();
}

REGISTER_OP("GroupNorm")
    .Input("x: T")
    .Input("gamma: U")
    .Input("beta: U")
    .Input("side_input: num_side_inputs * T")
    .Output("y: T")
    .Output("mean: U")
    .Output("rstd: U")
    .Output("rest: with_rest * U")
    .Attr("groups: int")
    .Attr("epsilon: float = 1e-3")
    .Attr("axis: int = -1")
    .Attr("activation: string = 'linear'")
    .Attr("num_side_inputs: int >= 0 = 0")
    .Attr("with_rest: int >= 0 = 0")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("U: {float, double}")
    .SetShapeFn(InferForward)
    .Doc(R"doc(
Group normalization (https://arxiv.org/abs/1803.08494) with what often follows it.

    y = activation((x - mean) * rstd * gamma + beta + side_input)

with `mean` and `rstd = 1 / sqrt(variance + epsilon)` over each sample and group: over
`channels / groups` neighbouring channels and all axes but the batch and the channel axis. The
result is bit-identical from run to run and for any number of threads.

x: Rank 2 or more, of shape `[batch, ...]` with the channels on `axis`. May have no elements.
gamma: Scale: `[channels]`, or `[batch, channels]` to scale each sample, or `[0]` for none.
beta: Shift: `[channels]`, or `[batch, channels]` to shift each sample, or `[0]` for none.
side_input: At most one tensor of the shape of `x`, added before the activation.
y: Of the shape of `x`. The gradient flows through this output only.
mean: `[batch, groups]`, for GroupNormGrad. 0 for a group without elements.
rstd: `[batch, groups]`, for GroupNormGrad.
rest: `[batch, 2, groups]` where `with_rest` is 1, for GroupNormGrad: what `mean` and `rstd` lost
  when they were rounded to `U`. `y` is computed from the sums.
with_rest: 0 or 1: the number of `rest`.
groups: Divides the number of channels. 1 normalizes as layer normalization over channels and
  space does, the number of channels as instance normalization does.
epsilon: Added to the variance; not negative.
axis: The channel axis; not 0, the batch.
activation: "linear", "relu" or "silu".
U: double where `T` is double, and float elsewhere.
)doc");

REGISTER_OP("GroupNormGrad")
    .Input("dy: T")
    .Input("x: T")
    .Input("gamma: U")
    .Input("beta: U")
    .Input("mean: U")
    .Input("rstd: U")
    .Input("side_input: num_side_inputs * T")
    .Input("rest: num_rests * U")
    .Output("dx: T")
    .Output("dgamma: U")
    .Output("dbeta: U")
    .Output("dside: num_side_inputs * T")
    .Output("y: with_y * T")
    .Attr("groups: int")
    .Attr("axis: int = -1")
    .Attr("activation: string = 'linear'")
    .Attr("num_side_inputs: int >= 0 = 0")
    .Attr("num_rests: int >= 0 = 0")
    .Attr("with_y: int >= 0 = 0")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("U: {float, double}")
    .SetShapeFn(InferGradient)
    .Doc(R"doc(
The gradient of GroupNorm.

dy: The gradient of `y`, of the shape of `x`.
x: As given to GroupNorm.
gamma: As given to GroupNorm.
beta: As given to GroupNorm.
mean: `[batch, groups]`, as returned by GroupNorm.
rstd: `[batch, groups]`, as returned by GroupNorm.
side_input: As given to GroupNorm.
rest: At most one tensor `[batch, 2, groups]`, as returned by GroupNorm. With it, the derivative of
  the activation is taken exactly where GroupNorm evaluated the activation.
dx: The gradient of `x`, by way of the statistics too.
dgamma: The gradient of `gamma`, of its shape.
dbeta: The gradient of `beta`, of its shape.
dside: The gradient of `side_input`.
y: The output of GroupNorm once more where `with_y` is 1, so that what needs it for its own gradient
  need not keep it. With `rest`, it has the very bits.
with_y: 0 or 1: the number of `y`.
groups: As given to GroupNorm.
axis: As given to GroupNorm.
activation: As given to GroupNorm.
U: double where `T` is double, and float elsewhere.
)doc");

REGISTER_KERNEL_BUILDER(Name("GroupNorm").Device(tensorflow::DEVICE_CPU), Kernel<GroupNormOp, Cpu>);
REGISTER_KERNEL_BUILDER(Name("GroupNormGrad").Device(tensorflow::DEVICE_CPU),
                        Kernel<GroupNormGradOp, Cpu>);
#if TFGN_WITH_CUDA
REGISTER_KERNEL_BUILDER(Name("GroupNorm").Device(tensorflow::DEVICE_GPU), Kernel<GroupNormOp, Gpu>);
REGISTER_KERNEL_BUILDER(Name("GroupNormGrad").Device(tensorflow::DEVICE_GPU),
                        Kernel<GroupNormGradOp, Gpu>);
#endif

}  // namespace
}  // namespace tfgn
