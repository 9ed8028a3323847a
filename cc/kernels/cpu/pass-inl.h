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

// The kernels of this target, with code for these activations.
template <class Activations, class Kernels>
Kernels KernelsOf() {
  Kernels kernels;
  std::apply([](auto&... kernel) { ((kernel = RunPass<Activations>), ...); }, kernels);
  return kernels;
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_CPU_PASS_INL_H_
