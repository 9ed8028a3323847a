// GroupNorm on the CPU.
#include <algorithm>
#include <tuple>

#include "kernels/cpu/plan.h"
#include "kernels/group_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/group_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/backward-inl.h"
#include "kernels/cpu/forward-inl.h"

#ifndef TFGN_KERNELS_CPU_GROUP_NORM_CC_
#define TFGN_KERNELS_CPU_GROUP_NORM_CC_
namespace tfgn {

template <typename T>
struct GroupNormKernels {
  void (*forward)(const GroupNormShape&, const GroupNormForwardTensors<T>&, void*,
                  const ParallelFor&);
  void (*backward)(const GroupNormShape&, const GroupNormBackwardTensors<T>&, void*,
                   const ParallelFor&);
};

using AllGroupNormKernels = std::tuple<GroupNormKernels<float16>, GroupNormKernels<bfloat16>,
                                       GroupNormKernels<float>, GroupNormKernels<double>>;

}  // namespace tfgn
#endif  // TFGN_KERNELS_CPU_GROUP_NORM_CC_

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

using AllActivations = Activations<Activation::kLinear, Activation::kRelu, Activation::kSilu>;

template <typename T>
void Forward(const GroupNormShape& shape, const GroupNormForwardTensors<T>& t, void* workspace,
             const ParallelFor& parallel) {
  const Normalization p = NormalizationOf(shape);
  const ForwardTensors<T, T> tensors = {
      t.x, t.gamma, t.beta, shape.has_side_input ? t.side_input : nullptr, t.y, t.mean, t.rstd};
  ForwardPass<T, T, AllActivations>(p, tensors, workspace).Run(parallel);
}

template <typename T>
void Backward(const GroupNormShape& shape, const GroupNormBackwardTensors<T>& t, void* workspace,
              const ParallelFor& parallel) {
  const Normalization p = NormalizationOf(shape);
  const BackwardTensors<T, T> tensors = {t.dy,         t.x,  t.gamma,  t.beta,  t.mean, t.rstd,
                                         t.side_input, t.dx, t.dgamma, t.dbeta, t.dside};
  BackwardPass<T, T, AllActivations>(p, tensors, workspace).Run(parallel);
}

template <typename T>
void SetKernels(GroupNormKernels<T>& kernels) {
  kernels = {Forward<T>, Backward<T>};
}

AllGroupNormKernels GetKernels() {
  AllGroupNormKernels all;
  std::apply([](auto&... kernels) { (SetKernels(kernels), ...); }, all);
  return all;
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

template <typename T>
int64_t GroupNormForwardWorkspace(const GroupNormShape& shape) {
  return ForwardWorkspace<ParamOf<T>>(NormalizationOf(shape));
}

template <typename T>
int64_t GroupNormBackwardWorkspace(const GroupNormShape& shape) {
  return BackwardWorkspace<ParamOf<T>>(NormalizationOf(shape));
}

template <typename T>
void GroupNormForward(const GroupNormShape& shape, const GroupNormForwardTensors<T>& tensors,
                      void* workspace, const ParallelFor& parallel) {
  const Normalization p = NormalizationOf(shape);
  if (p.empty()) {
    std::fill_n(tensors.mean, p.n * p.groups, ParamOf<T>(0));
    std::fill_n(tensors.rstd, p.n * p.groups, static_cast<ParamOf<T>>(p.Rstd(0)));
    return;
  }
  std::get<GroupNormKernels<T>>(HWY_DYNAMIC_DISPATCH(GetKernels)())
      .forward(shape, tensors, workspace, parallel);
}

template <typename T>
void GroupNormBackward(const GroupNormShape& shape, const GroupNormBackwardTensors<T>& tensors,
                       void* workspace, const ParallelFor& parallel) {
  const Normalization p = NormalizationOf(shape);
  if (p.empty()) {
    if (tensors.dgamma != nullptr) std::fill_n(tensors.dgamma, p.affine_size(p.gamma), 0);
    if (tensors.dbeta != nullptr) std::fill_n(tensors.dbeta, p.affine_size(p.beta), 0);
    return;
  }
  std::get<GroupNormKernels<T>>(HWY_DYNAMIC_DISPATCH(GetKernels)())
      .backward(shape, tensors, workspace, parallel);
}

#define TFGN_INSTANTIATE(T)                                                                     \
  template int64_t GroupNormForwardWorkspace<T>(const GroupNormShape&);                         \
  template int64_t GroupNormBackwardWorkspace<T>(const GroupNormShape&);                        \
  template void GroupNormForward<T>(const GroupNormShape&, const GroupNormForwardTensors<T>&,   \
                                    void*, const ParallelFor&);                                 \
  template void GroupNormBackward<T>(const GroupNormShape&, const GroupNormBackwardTensors<T>&, \
                                     void*, const ParallelFor&);
TFGN_FOR_EACH_DTYPE(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
#endif  // HWY_ONCE
