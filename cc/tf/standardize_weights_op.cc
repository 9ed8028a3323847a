// The ops StandardizeWeights and StandardizeWeightsGrad.
#include "kernels/standardize_weights.h"

#include <string>
#include <type_traits>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tf/op_util.h"

namespace tfgn {
namespace {

using ::tensorflow::DataType;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

struct Forward {
  static constexpr bool kIsGradient = false;
  enum Input { kW, kGain };
  enum Output { kWHat, kMean, kRstd };
};

struct Gradient {
  static constexpr bool kIsGradient = true;
  enum Input { kDwHat, kW, kGain, kMean, kRstd };
  enum Output { kDw, kDgain };
};

struct Attrs {
  std::vector<int64_t> axis;
  float epsilon = 0, scale = 1;
  std::string epsilon_mode;
  int64_t ddof = 0;
  DataType w_type = tensorflow::DT_INVALID, w_hat_type = tensorflow::DT_INVALID,
           param_type = tensorflow::DT_INVALID;
};

template <typename Context>  // OpKernelConstruction or InferenceContext
absl::Status Read(Context* ctx, Attrs* attrs) {
  TF_RETURN_IF_ERROR(ctx->GetAttr("axis", &attrs->axis));
  TF_RETURN_IF_ERROR(ctx->GetAttr("epsilon", &attrs->epsilon));
  TF_RETURN_IF_ERROR(ctx->GetAttr("epsilon_mode", &attrs->epsilon_mode));
  TF_RETURN_IF_ERROR(ctx->GetAttr("ddof", &attrs->ddof));
  TF_RETURN_IF_ERROR(ctx->GetAttr("scale", &attrs->scale));
  TF_RETURN_IF_ERROR(ctx->GetAttr("T", &attrs->w_type));
  TF_RETURN_IF_ERROR(ctx->GetAttr("Tout", &attrs->w_hat_type));
  return ctx->GetAttr("U", &attrs->param_type);
}

template <typename Op>
absl::Status Validate(const Attrs& attrs, const InputDims& inputs, StandardizeWeightsShape* shape) {
  StandardizeWeightsCall call;
  call.w = inputs[Op::kW];
  call.gain = inputs[Op::kGain];
  call.axis = attrs.axis.data();
  call.num_axes = static_cast<int>(attrs.axis.size());
  call.epsilon = attrs.epsilon;
  call.epsilon_mode = attrs.epsilon_mode;
  call.ddof = attrs.ddof;
  call.scale = attrs.scale;
  call.w_is_double = attrs.w_type == tensorflow::DT_DOUBLE;
  call.w_hat_is_double = attrs.w_hat_type == tensorflow::DT_DOUBLE;
  call.params_are_double = attrs.param_type == tensorflow::DT_DOUBLE;
  call.is_gradient = Op::kIsGradient;
  if constexpr (Op::kIsGradient) {
    call.dw_hat = inputs[Op::kDwHat];
    call.mean = inputs[Op::kMean];
    call.rstd = inputs[Op::kRstd];
  }
  return ToStatus(ValidateStandardizeWeights(call, shape));
}

absl::Status InferForward(InferenceContext* c) {
  Attrs attrs;
  StandardizeWeightsShape shape;
  TF_RETURN_IF_ERROR(Read(c, &attrs));
  TF_RETURN_IF_ERROR(Validate<Forward>(attrs, InputDims(c), &shape));
  c->set_output(Forward::kWHat, c->input(Forward::kW));
  const ShapeHandle statistics = c->Vector(shape.outputs);
  c->set_output(Forward::kMean, statistics);
  c->set_output(Forward::kRstd, statistics);
  return absl::OkStatus();
}

absl::Status InferGradient(InferenceContext* c) {
  Attrs attrs;
  StandardizeWeightsShape shape;
  TF_RETURN_IF_ERROR(Read(c, &attrs));
  TF_RETURN_IF_ERROR(Validate<Gradient>(attrs, InputDims(c), &shape));
  ShapeHandle w;
  TF_RETURN_IF_ERROR(c->Merge(c->input(Gradient::kW), c->input(Gradient::kDwHat), &w));
  c->set_output(Gradient::kDw, w);
  c->set_output(Gradient::kDgain, c->input(Gradient::kGain));
  return absl::OkStatus();
}

// Calls f(Tout()) for the element type `type` of w_hat.
// REQUIRES: the validator accepts `type` beside T.
template <typename T, typename F>
void WithOutputType(DataType type, F&& f) {
#define TFGN_CASE(Tout)                                                      \
  if constexpr (std::is_same_v<T, double> == std::is_same_v<Tout, double>) { \
    if (type == kDataType<Tout>) return f(Tout());                           \
  }
  TFGN_FOR_EACH_DTYPE(TFGN_CASE)
#undef TFGN_CASE
}

template <typename T>
class StandardizeWeightsOp : public OpKernel {
 public:
  explicit StandardizeWeightsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, Read(ctx, &attrs_));
  }

  void Compute(OpKernelContext* ctx) override {
    StandardizeWeightsShape shape;
    OP_REQUIRES_OK(ctx, Validate<Forward>(attrs_, InputDims(ctx), &shape));
    const Tensor& w = ctx->input(Forward::kW);
    const Tensor& gain = ctx->input(Forward::kGain);

    const TensorShape statistics({shape.outputs});
    Tensor *w_hat, *mean, *rstd, workspace;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(Forward::kWHat, w.shape(), &w_hat));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(Forward::kMean, statistics, &mean));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(Forward::kRstd, statistics, &rstd));

    WithOutputType<T>(attrs_.w_hat_type, [&](auto tout) {
      using Tout = decltype(tout);
      const int64_t bytes = StandardizeWeightsWorkspace<T, Tout>(shape);
      OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, bytes, &workspace));
      StandardizeWeightsForwardTensors<T, Tout> tensors;
      tensors.w = Data<T>(w);
      tensors.gain = shape.has_gain ? Data<ParamOf<T>>(gain) : nullptr;
      tensors.w_hat = Data<Tout>(*w_hat);
      tensors.mean = Data<ParamOf<T>>(*mean);
      tensors.rstd = Data<ParamOf<T>>(*rstd);
      StandardizeWeightsForward(shape, tensors, workspace.data(), IntraOpThreads(ctx));
    });
  }

 private:
  Attrs attrs_;
};

template <typename T>
class StandardizeWeightsGradOp : public OpKernel {
 public:
  explicit StandardizeWeightsGradOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, Read(ctx, &attrs_));
  }

  void Compute(OpKernelContext* ctx) override {
    StandardizeWeightsShape shape;
    OP_REQUIRES_OK(ctx, Validate<Gradient>(attrs_, InputDims(ctx), &shape));
    const Tensor& w = ctx->input(Gradient::kW);
    const Tensor& gain = ctx->input(Gradient::kGain);

    Tensor *dw, *dgain, workspace;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({Gradient::kDwHat}, Gradient::kDw,
                                                              w.shape(), &dw));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(Gradient::kDgain, gain.shape(), &dgain));

    WithOutputType<T>(attrs_.w_hat_type, [&](auto tout) {
      using Tout = decltype(tout);
      const int64_t bytes = StandardizeWeightsWorkspace<T, Tout>(shape);
      OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, bytes, &workspace));
      StandardizeWeightsBackwardTensors<T, Tout> tensors;
      tensors.dw_hat = Data<Tout>(ctx->input(Gradient::kDwHat));
      tensors.w = Data<T>(w);
      tensors.gain = shape.has_gain ? Data<ParamOf<T>>(gain) : nullptr;
      tensors.mean = Data<ParamOf<T>>(ctx->input(Gradient::kMean));
      tensors.rstd = Data<ParamOf<T>>(ctx->input(Gradient::kRstd));
      tensors.dw = Data<T>(*dw);
      tensors.dgain = shape.has_gain ? Data<ParamOf<T>>(*dgain) : nullptr;
      StandardizeWeightsBackward(shape, tensors, workspace.data(), IntraOpThreads(ctx));
    });
  }

 private:
  Attrs attrs_;
};

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
Weight standardization (https://arxiv.org/abs/1903.10520) of the kernel of a layer.

    w_hat = gain * scale * (w - mean) * rstd

with the statistics of each output channel, over the axes of `w` that `axis` does not name. The
result is bit-identical from run to run and for any number of threads.

w: The kernel, of any shape.
gain: `[O]`, one factor per output channel, or `[0]` for none. `O` is the product of the sizes of
  the axes in `axis`; the output channels are in the order in which `w` holds them.
w_hat: The standardized kernel, of the shape of `w`. The gradient flows through this output only.
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

#define TFGN_REGISTER(T)                                                                        \
  REGISTER_KERNEL_BUILDER(                                                                      \
      Name("StandardizeWeights").Device(tensorflow::DEVICE_CPU).TypeConstraint<TfType<T>>("T"), \
      StandardizeWeightsOp<T>);                                                                 \
  REGISTER_KERNEL_BUILDER(Name("StandardizeWeightsGrad")                                        \
                              .Device(tensorflow::DEVICE_CPU)                                   \
                              .TypeConstraint<TfType<T>>("T"),                                  \
                          StandardizeWeightsGradOp<T>);
TFGN_FOR_EACH_DTYPE(TFGN_REGISTER)
#undef TFGN_REGISTER

}  // namespace
}  // namespace tfgn
