// OptimizationBarrier under XLA.
#include "xla/custom_call.h"

namespace tfgn {
namespace {

constexpr char kName[] = "OptimizationBarrier";

template <bool kIsForGpu>
tensorflow::OpKernel* CreateBarrier(tensorflow::OpKernelConstruction* ctx) {
  return NewBarrier(ctx, kIsForGpu);
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
