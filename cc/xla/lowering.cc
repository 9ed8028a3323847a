#include "xla/lowering.h"

#include <optional>
#include <utility>
#include <vector>

#include "kernels/message.h"
#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/layout_util.h"
#include "xla/shape_util.h"

namespace tfgn {
namespace {

using ::tensorflow::XlaOpKernelContext;

// The inputs of an op, without bounded dynamic dimensions.
struct Operands {
  std::vector<xla::XlaOp> ops;
  std::vector<xla::Shape> shapes;
  std::optional<xla::XlaOp> batch;  // the size of axis 0, where it is known at run time only
};

absl::StatusOr<Operands> OperandsOf(XlaOpKernelContext* ctx, bool has_batch) {
  Operands operands;
  for (int i = 0; i < ctx->num_inputs(); ++i) {
    TF_ASSIGN_OR_RETURN(xla::Shape shape, ctx->InputXlaShape(i));
    xla::XlaOp op = ctx->Input(i);
    for (int axis = 0; axis < static_cast<int>(shape.dimensions().size()); ++axis) {
      if (!shape.is_dynamic_dimension(axis)) continue;
      const bool is_batch = has_batch && axis == 0 && shape.dimensions().size() > 1;
      if (!is_batch || shape.is_unbounded_dynamic()) {
        return absl::InvalidArgumentError(
            Concat(ctx->op_kernel().type_string(), " compiles under XLA for ",
                   has_batch ? "static shapes and a batch of bounded size" : "static shapes",
                   ", but input ", i, " has the shape ", shape.ToString(), ", whose axis ", axis,
                   " has a size that is known at run time only."));
      }
      if (!operands.batch) operands.batch = xla::GetDimensionSize(op, axis);
      op = xla::RemoveDynamicDimension(op, axis);
    }
    shape.clear_dynamic_dimensions();
    operands.ops.push_back(op);
    operands.shapes.push_back(shape);
  }
  return operands;
}

absl::StatusOr<xla::Shape> ShapeOf(const OutputSpec& spec) {
  xla::PrimitiveType type;
  TF_RETURN_IF_ERROR(tensorflow::DataTypeToPrimitiveType(spec.type, &type));
  return xla::ShapeUtil::MakeValidatedShape(type, spec.sizes);
}

// Adds the custom call and sets the outputs of `ctx`.
absl::Status AddCustomCall(XlaOpKernelContext* ctx, Operands operands, const CustomCall& call) {
  if (operands.batch) {
    operands.ops.push_back(*operands.batch);
    operands.shapes.push_back(xla::ShapeUtil::MakeShape(xla::S32, {}));
  }
  std::vector<xla::Shape> results;
  for (const OutputSpec& spec : call.outputs) {
    if (spec.is_input >= 0) continue;
    TF_ASSIGN_OR_RETURN(results.emplace_back(), ShapeOf(spec));
  }
  results.push_back(
      xla::ShapeUtil::MakeShape(xla::U8, {call.workspace_bytes + kWorkspaceAlignment}));
  // The kernels need the default layout. XLA might choose another for a convolution beside them.
  for (xla::Shape& shape : operands.shapes) xla::LayoutUtil::SetToDefaultLayout(&shape);

  const xla::XlaOp tuple = xla::CustomCallWithLayout(
      ctx->builder(), TargetOf(ctx->op_kernel().type_string()), operands.ops,
      xla::ShapeUtil::MakeTupleShape(results), operands.shapes, call.attrs,
      /*has_side_effect=*/false,
      /*output_operand_aliasing=*/{}, /*literal=*/nullptr, xla::CustomCallSchedule::SCHEDULE_NONE,
      xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
  int result = 0;
  for (int i = 0; i < static_cast<int>(call.outputs.size()); ++i) {
    if (call.outputs[i].is_input >= 0) {
      ctx->SetOutput(i, ctx->Input(call.outputs[i].is_input));
      continue;
    }
    xla::XlaOp output = xla::GetTupleElement(tuple, result++);
    if (operands.batch && call.outputs[i].sizes.size() > 1) {
      output = xla::SetDimensionSize(output, *operands.batch, 0);
    }
    ctx->SetOutput(i, output);
  }
  return absl::OkStatus();
}

class Lowering : public tensorflow::XlaOpKernel {
 public:
  Lowering(tensorflow::OpKernelConstruction* ctx, bool has_batch, DescribeCall describe)
      : XlaOpKernel(ctx), has_batch_(has_batch), describe_(std::move(describe)) {}

  void Compile(XlaOpKernelContext* ctx) override {
    absl::StatusOr<Operands> operands = OperandsOf(ctx, has_batch_);
    OP_REQUIRES_OK(ctx, operands.status());
    const InputDims inputs(ctx->num_inputs(),
                           [&](int i) { return operands->shapes[i].dimensions(); });
    CustomCall call;
    OP_REQUIRES_OK(ctx, describe_(inputs, &call));
    OP_REQUIRES_OK(ctx, AddCustomCall(ctx, *std::move(operands), call));
  }

 private:
  const bool has_batch_;
  const DescribeCall describe_;
};

class Barrier : public tensorflow::XlaOpKernel {
 public:
  Barrier(tensorflow::OpKernelConstruction* ctx, bool is_for_gpu)
      : XlaOpKernel(ctx), is_for_gpu_(is_for_gpu) {}

  void Compile(XlaOpKernelContext* ctx) override {
    xla::XlaBuilder* const builder = ctx->builder();
    const xla::XlaOp x = ctx->Input(0), after = ctx->Input(1);
    if (is_for_gpu_) {
      const xla::XlaOp both = xla::OptimizationBarrier(xla::Tuple(builder, {x, after}));
      ctx->SetOutput(0, xla::GetTupleElement(both, 0));
      return;
    }
    const absl::StatusOr<xla::Shape> shape = ctx->InputXlaShape(0);
    OP_REQUIRES_OK(ctx, shape.status());
    const xla::XlaOp token = xla::CustomCall(
        builder, TargetOf(ctx->op_kernel().type_string()), {after},
        xla::ShapeUtil::MakeTokenShape(), /*opaque=*/"", /*has_side_effect=*/false,
        /*output_operand_aliasing=*/{}, /*literal=*/nullptr, xla::CustomCallSchedule::SCHEDULE_NONE,
        xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    ctx->SetOutput(0,
                   xla::internal::XlaBuilderFriend::BuildAddDependency(builder, x, token, *shape));
  }

 private:
  const bool is_for_gpu_;
};

}  // namespace

tensorflow::OpKernel* NewLowering(tensorflow::OpKernelConstruction* ctx, bool has_batch,
                                  DescribeCall describe) {
  return new Lowering(ctx, has_batch, std::move(describe));
}

tensorflow::OpKernel* NewBarrier(tensorflow::OpKernelConstruction* ctx, bool is_for_gpu) {
  return new Barrier(ctx, is_for_gpu);
}

}  // namespace tfgn
