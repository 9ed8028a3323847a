// The passes of a Normalization as CpuKernels. Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_CPU_PASS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_CPU_PASS_INL_H_
#undef TFGN_KERNELS_CPU_PASS_INL_H_
#else
#define TFGN_KERNELS_CPU_PASS_INL_H_
#endif

#include "kernels/cpu/backward-inl.h"
#include "kernels/cpu/forward-inl.h"
#include "kernels/cpu/pass.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

template <class Activations>
struct Passes {
  template <typename T, typename Tout>
  static void Run(const CpuPlan& plan, const ForwardTensors<T, Tout>& tensors, void* workspace,
                  const ParallelFor& parallel) {
    ForwardPass<T, Tout, Activations>(plan, tensors, workspace).Run(parallel);
  }
  template <typename T, typename Tout>
  static void Run(const CpuPlan& plan, const BackwardTensors<T, Tout>& tensors, void* workspace,
                  const ParallelFor& parallel) {
    BackwardPass<T, Tout, Activations>(plan, tensors, workspace).Run(parallel);
  }

  // Of this target, with code for these activations.
  template <class Kernels>
  static Kernels Table() {
    Kernels table;
    std::apply([](auto&... kernels) { ((kernels = Run), ...); }, table);
    return table;
  }
};

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_CPU_PASS_INL_H_
