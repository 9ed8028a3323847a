// StandardizeWeights on the CPU: a normalization in which every output channel is a group.
#include <algorithm>
#include <tuple>
#include <vector>

#include "kernels/cpu/plan.h"
#include "kernels/standardize_weights.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/standardize_weights.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/backward-inl.h"
#include "kernels/cpu/forward-inl.h"

#ifndef TFGN_KERNELS_CPU_STANDARDIZE_WEIGHTS_CC_
#define TFGN_KERNELS_CPU_STANDARDIZE_WEIGHTS_CC_
namespace tfgn {

template <typename T, typename Tout>
struct StandardizeKernels {
  void (*forward)(const Normalization&, const StandardizeWeightsForwardTensors<T, Tout>&, void*,
                  const ParallelFor&);
  void (*backward)(const Normalization&, const StandardizeWeightsBackwardTensors<T, Tout>&, void*,
                   const ParallelFor&);
};

// w and w_hat are of any two types, but double goes with double.
using AllStandardizeKernels =
    std::tuple<StandardizeKernels<float16, float16>, StandardizeKernels<float16, bfloat16>,
               StandardizeKernels<float16, float>, StandardizeKernels<bfloat16, float16>,
               StandardizeKernels<bfloat16, bfloat16>, StandardizeKernels<bfloat16, float>,
               StandardizeKernels<float, float16>, StandardizeKernels<float, bfloat16>,
               StandardizeKernels<float, float>, StandardizeKernels<double, double>>;

}  // namespace tfgn
#endif  // TFGN_KERNELS_CPU_STANDARDIZE_WEIGHTS_CC_

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

using NoActivation = Activations<Activation::kLinear>;

template <typename T, typename Tout>
void Forward(const Normalization& p, const StandardizeWeightsForwardTensors<T, Tout>& t,
             void* workspace, const ParallelFor& parallel) {
  const ForwardTensors<T, Tout> tensors = {t.w, t.gain, nullptr, nullptr, t.w_hat, t.mean, t.rstd};
  ForwardPass<T, Tout, NoActivation>(p, tensors, workspace).Run(parallel);
}

template <typename T, typename Tout>
void Backward(const Normalization& p, const StandardizeWeightsBackwardTensors<T, Tout>& t,
              void* workspace, const ParallelFor& parallel) {
  const BackwardTensors<T, Tout> tensors = {t.dw_hat, t.w,  t.gain,  nullptr, t.mean, t.rstd,
                                            nullptr,  t.dw, t.dgain, nullptr, nullptr};
  BackwardPass<T, Tout, NoActivation>(p, tensors, workspace).Run(parallel);
}

template <typename T, typename Tout>
void SetKernels(StandardizeKernels<T, Tout>& kernels) {
  kernels = {Forward<T, Tout>, Backward<T, Tout>};
}

AllStandardizeKernels GetKernels() {
  AllStandardizeKernels all;
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

// Elements of a tensor of alternately reduced and kept sizes `runs`, from its own order to
// [outputs, fan_in], or back.
enum class Order { kToOutputMajor, kFromOutputMajor };

template <typename T>
void Reorder(const StandardizeWeightsShape& shape, Order order, const T* from, T* to) {
  const int rank = static_cast<int>(shape.runs.size());
  std::vector<int64_t> stride(rank), index(rank, 0);
  int64_t kept_stride = shape.fan_in, reduced_stride = 1;
  for (int i = rank - 1; i >= 0; --i) {
    int64_t& next = i % 2 == 0 ? reduced_stride : kept_stride;
    stride[i] = next;
    next *= shape.runs[i];
  }
  const int64_t size = shape.outputs * shape.fan_in;
  int64_t output_major = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (order == Order::kToOutputMajor) {
      to[output_major] = from[i];
    } else {
      to[i] = from[output_major];
    }
    for (int k = rank - 1; k >= 0; --k) {
      output_major += stride[k];
      if (++index[k] < shape.runs[k]) break;
      output_major -= index[k] * stride[k];
      index[k] = 0;
    }
  }
}

}  // namespace

template <typename T, typename Tout>
int64_t StandardizeWeightsWorkspace(const StandardizeWeightsShape& shape) {
  using CT = ParamOf<T>;
  const Normalization p = NormalizationOf(shape);
  Scratch scratch;
  scratch.Take<char>(std::max(ForwardWorkspace<CT>(p), BackwardWorkspace<CT>(p)));
  if (!shape.runs.empty()) {
    const int64_t size = shape.outputs * shape.fan_in;
    scratch.Take<T>(size);
    scratch.Take<T>(size);
    scratch.Take<Tout>(size);
  }
  return scratch.used();
}

template <typename T, typename Tout>
void StandardizeWeightsForward(const StandardizeWeightsShape& shape,
                               const StandardizeWeightsForwardTensors<T, Tout>& tensors,
                               void* workspace, const ParallelFor& parallel) {
  if (shape.outputs == 0) return;
  const Normalization p = NormalizationOf(shape);
  if (p.empty()) {
    std::fill_n(tensors.mean, shape.outputs, ParamOf<T>(0));
    std::fill_n(tensors.rstd, shape.outputs, static_cast<ParamOf<T>>(p.Rstd(0)));
    return;
  }
  const auto kernels = std::get<StandardizeKernels<T, Tout>>(HWY_DYNAMIC_DISPATCH(GetKernels)());
  if (shape.runs.empty()) return kernels.forward(p, tensors, workspace, parallel);

  const int64_t size = shape.outputs * shape.fan_in;
  Scratch scratch(workspace);
  void* const pass_workspace = scratch.Take<char>(ForwardWorkspace<ParamOf<T>>(p));
  T* w = scratch.Take<T>(size);
  auto reordered = tensors;
  reordered.w = w;
  reordered.w_hat = scratch.Take<Tout>(size);
  Reorder(shape, Order::kToOutputMajor, tensors.w, w);
  kernels.forward(p, reordered, pass_workspace, parallel);
  Reorder<Tout>(shape, Order::kFromOutputMajor, reordered.w_hat, tensors.w_hat);
}

template <typename T, typename Tout>
void StandardizeWeightsBackward(const StandardizeWeightsShape& shape,
                                const StandardizeWeightsBackwardTensors<T, Tout>& tensors,
                                void* workspace, const ParallelFor& parallel) {
  const Normalization p = NormalizationOf(shape);
  if (p.empty()) {
    if (tensors.dgain != nullptr) std::fill_n(tensors.dgain, p.affine_size(p.gamma), 0);
    return;
  }
  const auto kernels = std::get<StandardizeKernels<T, Tout>>(HWY_DYNAMIC_DISPATCH(GetKernels)());
  if (shape.runs.empty()) return kernels.backward(p, tensors, workspace, parallel);

  const int64_t size = shape.outputs * shape.fan_in;
  Scratch scratch(workspace);
  void* const pass_workspace = scratch.Take<char>(BackwardWorkspace<ParamOf<T>>(p));
  T* w = scratch.Take<T>(size);
  Tout* dw_hat = scratch.Take<Tout>(size);
  auto reordered = tensors;
  reordered.w = w;
  reordered.dw_hat = dw_hat;
  if (tensors.dw != nullptr) reordered.dw = scratch.Take<T>(size);
  Reorder(shape, Order::kToOutputMajor, tensors.w, w);
  Reorder(shape, Order::kToOutputMajor, tensors.dw_hat, dw_hat);
  kernels.backward(p, reordered, pass_workspace, parallel);
  if (tensors.dw != nullptr) {
    Reorder<T>(shape, Order::kFromOutputMajor, reordered.dw, tensors.dw);
  }
}

#define TFGN_INSTANTIATE(T, Tout)                                                               \
  template int64_t StandardizeWeightsWorkspace<T, Tout>(const StandardizeWeightsShape&);        \
  template void StandardizeWeightsForward<T, Tout>(                                             \
      const StandardizeWeightsShape&, const StandardizeWeightsForwardTensors<T, Tout>&, void*,  \
      const ParallelFor&);                                                                      \
  template void StandardizeWeightsBackward<T, Tout>(                                            \
      const StandardizeWeightsShape&, const StandardizeWeightsBackwardTensors<T, Tout>&, void*, \
      const ParallelFor&);
#define TFGN_INSTANTIATE_16BIT_AND_FLOAT(T) \
  TFGN_INSTANTIATE(T, float16)              \
  TFGN_INSTANTIATE(T, bfloat16)             \
  TFGN_INSTANTIATE(T, float)
TFGN_INSTANTIATE_16BIT_AND_FLOAT(float16)
TFGN_INSTANTIATE_16BIT_AND_FLOAT(bfloat16)
TFGN_INSTANTIATE_16BIT_AND_FLOAT(float)
TFGN_INSTANTIATE(double, double)
#undef TFGN_INSTANTIATE_16BIT_AND_FLOAT
#undef TFGN_INSTANTIATE

}  // namespace tfgn
#endif  // HWY_ONCE
