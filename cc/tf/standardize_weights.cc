#include "op/standardize_weights.h"

#include "tensorflow/core/framework/op.h"
#include "tf/infer.h"
#include "tf/kernel.h"

namespace tfgn {
namespace {

absl::Status InferForward(InferenceContext* c) {
  using Op = StandardizeWeightsOp;
  StandardizeWeightsShape shape;
  ShapeHandle w;
  TF_RETURN_IF_ERROR(Infer<Op>(c, Op::kW, {}, &shape, &w));
  c->set_output(Op::kWHat, w);
  const ShapeHandle statistics = c->Vector(shape.outputs);
  c->set_output(Op::kMean, statistics);
  c->set_output(Op::kRstd, statistics);
  return absl::OkStatus();
}

absl::Status InferGradient(InferenceContext* c) {
  using Op = StandardizeWeightsGradOp;
  StandardizeWeightsShape shape;
  ShapeHandle w;
  TF_RETURN_IF_ERROR(Infer<Op>(c, Op::kW, {Op::kDwHat}, &shape, &w));
  c->set_output(Op::kDw, w);
  c->set_output(Op::kDgain, c->input(Op::kGain));
  return absl::OkStatus();
}

REGISTER_OP("StandardizeWeights")
    .Input("w: T")
    .Input("gain: U")
    .Output("w_hat: Tout")
    .Output("mean: U")
    .Output("rstd: U")
    .Attr("axis: list(int) = [-1]")
    .Attr("epsilon: float = 1e-10")
    .Attr("epsilon_mode: string = 'add_to_variance'")
    .Attr("ddof: int = 0")
    .Attr("scale: float = 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("Tout: {half, bfloat16, float, double}")
    .Attr("U: {float, double}")
    .SetShapeFn(InferForward)
    .Doc(R"doc(
Weight standardization (https://arxiv.org/abs/1903.10520) of the weights of a layer.

    w_hat = gain * scale * (w - mean) * rstd

with the statistics of each output channel, over the axes of `w` that `axis` does not name. The
result is bit-identical from run to run and for any number of threads.

w: The weights, of any shape.
gain: `[O]`, one factor per output channel, or `[0]` for none. `O` is the product of the sizes of
  the axes in `axis`; the output channels are in the order in which `w` holds them.
w_hat: The standardized weights, of the shape of `w`. The gradient flows through this output only.
mean: `[O]`, for StandardizeWeightsGrad.
rstd: `[O]`, for StandardizeWeightsGrad.
axis: The axes of the output channels, which are not reduced.
epsilon: Not negative.
epsilon_mode: What `epsilon` does: "add_to_variance" is `rstd = 1 / sqrt(variance + epsilon)`,
  "add_to_stddev" is `1 / (sqrt(variance) + epsilon)` and "clamp_variance" is
  `1 / sqrt(max(variance, epsilon))`.
ddof: 0 or 1. The variance divides by the number of weights of an output channel less `ddof`.
scale: A constant factor.
Tout: The type of `w_hat`. double where `T` is double, and only there.
U: double where `T` is double, and float elsewhere.
)doc");

REGISTER_OP("StandardizeWeightsGrad")
    .Input("dw_hat: Tout")
    .Input("w: T")
    .Input("gain: U")
    .Input("mean: U")
    .Input("rstd: U")
    .Output("dw: T")
    .Output("dgain: U")
    .Attr("axis: list(int) = [-1]")
    .Attr("epsilon: float = 1e-10")
    .Attr("epsilon_mode: string = 'add_to_variance'")
    .Attr("ddof: int = 0")
    .Attr("scale: float = 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("Tout: {half, bfloat16, float, double}")
    .Attr("U: {float, double}")
    .SetShapeFn(InferGradient)
    .Doc(R"doc(
The gradient of StandardizeWeights.

dw_hat: The gradient of `w_hat`, of the shape of `w`.
w: As given to StandardizeWeights.
gain: As given to StandardizeWeights.
mean: `[O]`, as returned by StandardizeWeights.
rstd: `[O]`, as returned by StandardizeWeights.
dw: The gradient of `w`, by way of the statistics too.
dgain: The gradient of `gain`, of its shape.
axis: As given to StandardizeWeights.
epsilon: As given to StandardizeWeights.
epsilon_mode: As given to StandardizeWeights.
ddof: As given to StandardizeWeights.
scale: As given to StandardizeWeights.
Tout: The type of `dw_hat`. double where `T` is double, and only there.
U: double where `T` is double, and float elsewhere.
)doc");

REGISTER_KERNEL_BUILDER(Name("StandardizeWeights").Device(tensorflow::DEVICE_CPU),
                        Kernel<StandardizeWeightsOp, Cpu>);
REGISTER_KERNEL_BUILDER(Name("StandardizeWeightsGrad").Device(tensorflow::DEVICE_CPU),
                        Kernel<StandardizeWeightsGradOp, Cpu>);
#if TFGN_WITH_CUDA
REGISTER_KERNEL_BUILDER(Name("StandardizeWeights").Device(tensorflow::DEVICE_GPU),
                        Kernel<StandardizeWeightsOp, Gpu>);
REGISTER_KERNEL_BUILDER(Name("StandardizeWeightsGrad").Device(tensorflow::DEVICE_GPU),
                        Kernel<StandardizeWeightsGradOp, Gpu>);
#endif

}  // namespace
}  // namespace tfgn
