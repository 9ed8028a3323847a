// The ops GroupNorm and GroupNormGrad.
#include "kernels/group_norm.h"

#include <string>

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
  enum Input { kX, kGamma, kBeta, kSideInput };
  enum Output { kY, kMean, kRstd };
};

struct Gradient {
  static constexpr bool kIsGradient = true;
  enum Input { kDy, kX, kGamma, kBeta, kMean, kRstd, kSideInput };
  enum Output { kDx, kDgamma, kDbeta, kDside };
};

struct Attrs {
  int64_t groups = 0, axis = 0;
  float epsilon = 0;
  std::string activation;
  int num_side_inputs = 0;
  DataType x_type = tensorflow::DT_INVALID, param_type = tensorflow::DT_INVALID;
};

template <typename Op, typename Context>  // OpKernelConstruction or InferenceContext
absl::Status Read(Context* ctx, Attrs* attrs) {
  TF_RETURN_IF_ERROR(ctx->GetAttr("groups", &attrs->groups));
  TF_RETURN_IF_ERROR(ctx->GetAttr("axis", &attrs->axis));
  TF_RETURN_IF_ERROR(ctx->GetAttr("activation", &attrs->activation));
  TF_RETURN_IF_ERROR(ctx->GetAttr("num_side_inputs", &attrs->num_side_inputs));
  TF_RETURN_IF_ERROR(ctx->GetAttr("T", &attrs->x_type));
  TF_RETURN_IF_ERROR(ctx->GetAttr("U", &attrs->param_type));
  return Op::kIsGradient ? absl::OkStatus() : ctx->GetAttr("epsilon", &attrs->epsilon);
}

template <typename Op>
absl::Status Validate(const Attrs& attrs, const InputDims& inputs, GroupNormShape* shape) {
  GroupNormCall call;
  call.x = inputs[Op::kX];
  call.gamma = inputs[Op::kGamma];
  call.beta = inputs[Op::kBeta];
  call.num_side_inputs = attrs.num_side_inputs;
  if (attrs.num_side_inputs == 1) call.side_input = inputs[Op::kSideInput];
  call.groups = attrs.groups;
  call.axis = attrs.axis;
  call.epsilon = attrs.epsilon;
  call.activation = attrs.activation;
  call.x_is_double = attrs.x_type == tensorflow::DT_DOUBLE;
  call.params_are_double = attrs.param_type == tensorflow::DT_DOUBLE;
  call.is_gradient = Op::kIsGradient;
  if constexpr (Op::kIsGradient) {
    call.dy = inputs[Op::kDy];
    call.mean = inputs[Op::kMean];
    call.rstd = inputs[Op::kRstd];
  }
  return ToStatus(ValidateGroupNorm(call, shape));
}

// Sets *x to what x and the tensors shaped like it tell together of their shape.
template <typename Op>
absl::Status InferX(InferenceContext* c, GroupNormShape* shape, ShapeHandle* x) {
  Attrs attrs;
  TF_RETURN_IF_ERROR(Read<Op>(c, &attrs));
  TF_RETURN_IF_ERROR(Validate<Op>(attrs, InputDims(c), shape));
  *x = c->input(Op::kX);
  if (shape->has_side_input) {
    TF_RETURN_IF_ERROR(c->Merge(*x, c->input(Op::kSideInput), x));
  }
  if constexpr (Op::kIsGradient) TF_RETURN_IF_ERROR(c->Merge(*x, c->input(Op::kDy), x));
  return absl::OkStatus();
}

// An absent gamma or beta has a shape, [0], but no data.
template <typename T>
ParamOf<T>* ParamsOrNull(const Tensor& tensor, Affine affine) {
  return affine == Affine::kAbsent ? nullptr : Data<ParamOf<T>>(tensor);
}

absl::Status InferForward(InferenceContext* c) {
  GroupNormShape shape;
  ShapeHandle x;
  TF_RETURN_IF_ERROR(InferX<Forward>(c, &shape, &x));
  c->set_output(Forward::kY, x);
  const auto n = c->RankKnown(x) ? c->Dim(x, 0) : c->UnknownDim();
  const ShapeHandle statistics = c->Matrix(n, shape.groups);
  c->set_output(Forward::kMean, statistics);
  c->set_output(Forward::kRstd, statistics);
  return absl::OkStatus();
}

absl::Status InferGradient(InferenceContext* c) {
  GroupNormShape shape;
  ShapeHandle x;
  TF_RETURN_IF_ERROR(InferX<Gradient>(c, &shape, &x));
  c->set_output(Gradient::kDx, x);
  c->set_output(Gradient::kDgamma, c->input(Gradient::kGamma));
  c->set_output(Gradient::kDbeta, c->input(Gradient::kBeta));
  if (shape.has_side_input) c->set_output(Gradient::kDside, x);
  return absl::OkStatus();
}

template <typename T>
class GroupNormOp : public OpKernel {
 public:
  explicit GroupNormOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, Read<Forward>(ctx, &attrs_));
  }

  void Compute(OpKernelContext* ctx) override {
    GroupNormShape shape;
    OP_REQUIRES_OK(ctx, Validate<Forward>(attrs_, InputDims(ctx), &shape));
    const Tensor& x = ctx->input(Forward::kX);

    static constexpr int kShapedLikeY[] = {Forward::kX, Forward::kSideInput};
    Tensor *y, *mean, *rstd, workspace;
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output(
                            absl::MakeConstSpan(kShapedLikeY, shape.has_side_input ? 2 : 1),
                            Forward::kY, x.shape(), &y));
    TensorShape statistics;
    OP_REQUIRES_OK(ctx, TensorShape::BuildTensorShape({shape.n, shape.groups}, &statistics));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(Forward::kMean, statistics, &mean));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(Forward::kRstd, statistics, &rstd));
    OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, GroupNormForwardWorkspace<T>(shape), &workspace));

    GroupNormForwardTensors<T> tensors;
    tensors.x = Data<T>(x);
    tensors.gamma = ParamsOrNull<T>(ctx->input(Forward::kGamma), shape.gamma);
    tensors.beta = ParamsOrNull<T>(ctx->input(Forward::kBeta), shape.beta);
    tensors.side_input = shape.has_side_input ? Data<T>(ctx->input(Forward::kSideInput)) : nullptr;
    tensors.y = Data<T>(*y);
    tensors.mean = Data<ParamOf<T>>(*mean);
    tensors.rstd = Data<ParamOf<T>>(*rstd);
    GroupNormForward(shape, tensors, workspace.data(), IntraOpThreads(ctx));
  }

 private:
  Attrs attrs_;
};

template <typename T>
class GroupNormGradOp : public OpKernel {
 public:
  explicit GroupNormGradOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, Read<Gradient>(ctx, &attrs_));
  }

  void Compute(OpKernelContext* ctx) override {
    GroupNormShape shape;
    OP_REQUIRES_OK(ctx, Validate<Gradient>(attrs_, InputDims(ctx), &shape));
    const Tensor& dy = ctx->input(Gradient::kDy);
    const Tensor& x = ctx->input(Gradient::kX);
    const Tensor& gamma = ctx->input(Gradient::kGamma);
    const Tensor& beta = ctx->input(Gradient::kBeta);

    Tensor *dx, *dgamma, *dbeta, *dside = nullptr, workspace;
    if (shape.has_side_input && shape.activation == Activation::kLinear) {
      ctx->set_output(Gradient::kDside, dy);
    } else if (shape.has_side_input) {
      OP_REQUIRES_OK(ctx,
                     ctx->forward_input_or_allocate_output({Gradient::kSideInput, Gradient::kDy},
                                                           Gradient::kDside, x.shape(), &dside));
    }
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({Gradient::kDy, Gradient::kX},
                                                              Gradient::kDx, x.shape(), &dx));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(Gradient::kDgamma, gamma.shape(), &dgamma));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(Gradient::kDbeta, beta.shape(), &dbeta));
    OP_REQUIRES_OK(ctx, AllocateWorkspace(ctx, GroupNormBackwardWorkspace<T>(shape), &workspace));

    GroupNormBackwardTensors<T> tensors;
    tensors.dy = Data<T>(dy);
    tensors.x = Data<T>(x);
    tensors.gamma = ParamsOrNull<T>(gamma, shape.gamma);
    tensors.beta = ParamsOrNull<T>(beta, shape.beta);
    tensors.mean = Data<ParamOf<T>>(ctx->input(Gradient::kMean));
    tensors.rstd = Data<ParamOf<T>>(ctx->input(Gradient::kRstd));
    tensors.side_input = shape.has_side_input ? Data<T>(ctx->input(Gradient::kSideInput)) : nullptr;
    tensors.dx = Data<T>(*dx);
    tensors.dgamma = ParamsOrNull<T>(*dgamma, shape.gamma);
    tensors.dbeta = ParamsOrNull<T>(*dbeta, shape.beta);
    tensors.dside = dside != nullptr ? Data<T>(*dside) : nullptr;
    GroupNormBackward(shape, tensors, workspace.data(), IntraOpThreads(ctx));
  }

 private:
  Attrs attrs_;
};

REGISTER_OP("GroupNorm")
    .Input("x: T")
    .Input("gamma: U")
    .Input("beta: U")
    .Input("side_input: num_side_inputs * T")
    .Output("y: T")
    .Output("mean: U")
    .Output("rstd: U")
    .Attr("groups: int")
    .Attr("epsilon: float = 1e-3")
    .Attr("axis: int = -1")
    .Attr("activation: string = 'linear'")
    .Attr("num_side_inputs: int >= 0 = 0")
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
    .Output("dx: T")
    .Output("dgamma: U")
    .Output("dbeta: U")
    .Output("dside: num_side_inputs * T")
    .Attr("groups: int")
    .Attr("axis: int = -1")
    .Attr("activation: string = 'linear'")
    .Attr("num_side_inputs: int >= 0 = 0")
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
dx: The gradient of `x`, by way of the statistics too.
dgamma: The gradient of `gamma`, of its shape.
dbeta: The gradient of `beta`, of its shape.
dside: The gradient of `side_input`.
groups: As given to GroupNorm.
axis: As given to GroupNorm.
activation: As given to GroupNorm.
U: double where `T` is double, and float elsewhere.
)doc");

#define TFGN_REGISTER(T)                                                                   \
  REGISTER_KERNEL_BUILDER(                                                                 \
      Name("GroupNorm").Device(tensorflow::DEVICE_CPU).TypeConstraint<TfType<T>>("T"),     \
      GroupNormOp<T>);                                                                     \
  REGISTER_KERNEL_BUILDER(                                                                 \
      Name("GroupNormGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<TfType<T>>("T"), \
      GroupNormGradOp<T>);
TFGN_FOR_EACH_DTYPE(TFGN_REGISTER)
#undef TFGN_REGISTER

}  // namespace
}  // namespace tfgn
