#include "kernels/cpu/group_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/group_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/pass-inl.h"

#ifndef TFGN_KERNELS_CPU_GROUP_NORM_CC_
#define TFGN_KERNELS_CPU_GROUP_NORM_CC_
namespace tfgn {

#define TFGN_KERNELS(T) TFGN_CPU_KERNELS(T, T)
using GroupNormKernels = KernelTable<void TFGN_FOR_EACH_DTYPE(TFGN_KERNELS)>;
#undef TFGN_KERNELS

}  // namespace tfgn
#endif  // TFGN_KERNELS_CPU_GROUP_NORM_CC_

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

GroupNormKernels GetKernels() {
  using All = Activations<Activation::kLinear, Activation::kRelu, Activation::kSilu>;
  return KernelsOf<All, GroupNormKernels>();
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tfgn {
namespace {

HWY_EXPORT(GetKernels);

}  // namespace

template <class Tensors>
CpuPass<Tensors> Plan(const GroupNormShape& shape, const ParallelFor&) {
  return Plan<Tensors>(NormalizationOf(shape),
                       std::get<CpuKernel<Tensors>>(HWY_DYNAMIC_DISPATCH(GetKernels)()));
}

#define TFGN_INSTANTIATE(T)                                                            \
  template CpuPass<ForwardTensors<T>> Plan(const GroupNormShape&, const ParallelFor&); \
  template CpuPass<BackwardTensors<T>> Plan(const GroupNormShape&, const ParallelFor&);
TFGN_FOR_EACH_DTYPE(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
#endif  // HWY_ONCE
