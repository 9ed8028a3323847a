// OptimizationBarrier under XLA.
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/custom_call.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

namespace tfgn {
namespace {

constexpr char kName[] = "OptimizationBarrier";

// On the CPU, XLA removes its own barriers before it merges what is equal. There, y is x with a
// dependency on a token, which an empty custom call makes of `after`.
template <bool kOnGpu>
class Barrier : public tensorflow::XlaOpKernel {
 public:
  using XlaOpKernel::XlaOpKernel;

  void Compile(tensorflow::XlaOpKernelContext* ctx) override {
    xla::XlaBuilder* const builder = ctx->builder();
    const xla::XlaOp x = ctx->Input(0), after = ctx->Input(1);
    if constexpr (kOnGpu) {
      const xla::XlaOp both = xla::OptimizationBarrier(xla::Tuple(builder, {x, after}));
      ctx->SetOutput(0, xla::GetTupleElement(both, 0));
    } else {
      const absl::StatusOr<xla::Shape> shape = ctx->InputXlaShape(0);
      OP_REQUIRES_OK(ctx, shape.status());
      const xla::XlaOp token = xla::CustomCall(
          builder, TargetOf(kName), {after}, xla::ShapeUtil::MakeTokenShape(), /*opaque=*/"",
          /*has_side_effect=*/false, /*output_operand_aliasing=*/{}, /*literal=*/nullptr,
          xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
      ctx->SetOutput(
          0, xla::internal::XlaBuilderFriend::BuildAddDependency(builder, x, token, *shape));
    }
  }
};

template <bool kOnGpu>
tensorflow::OpKernel* CreateBarrier(tensorflow::OpKernelConstruction* ctx) {
  return new Barrier<kOnGpu>(ctx);
}

XLA_FFI_Error* DoNothing(XLA_FFI_CallFrame* frame) {
  static const auto* handler =
      ffi::Ffi::Bind()
          .RemainingArgs()
          .RemainingRets()
          .To([](ffi::RemainingArgs, ffi::RemainingRets) { return ffi::Error::Success(); })
          .release();
  return handler->Call(frame);
}

[[maybe_unused]] const bool registered =
    Register(kName, {"XLA_CPU_JIT", "Host", CreateBarrier<false>, DoNothing})
#if TFGN_WITH_CUDA
    && Register(kName, {"XLA_GPU_JIT", "CUDA", CreateBarrier<true>, nullptr})
#endif
    ;

}  // namespace
}  // namespace tfgn
