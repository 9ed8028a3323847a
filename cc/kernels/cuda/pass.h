// A Normalization on a CUDA device: what GroupNorm and StandardizeWeights have in common there.
// Internal to the kernels.
#ifndef TFGN_KERNELS_CUDA_PASS_H_
#define TFGN_KERNELS_CUDA_PASS_H_

#include <cstdint>
#include <string>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/normalize.h"

namespace tfgn {

enum class ElementType { kFloat16, kBfloat16, kFloat, kDouble };

template <typename T>
constexpr ElementType ElementTypeOf() {
  if (std::is_same_v<T, float16>) return ElementType::kFloat16;
  if (std::is_same_v<T, bfloat16>) return ElementType::kBfloat16;
  return std::is_same_v<T, float> ? ElementType::kFloat : ElementType::kDouble;
}

constexpr int SizeOf(ElementType type) {
  return type == ElementType::kDouble ? 8 : type == ElementType::kFloat ? 4 : 2;
}

// y is of y_type: double where T is double, any other type elsewhere.
template <typename T>
struct CudaForwardTensors {
  const T* x;
  const ParamOf<T>* gamma;
  const ParamOf<T>* beta;
  const T* side;
  void* y;
  ElementType y_type;
  ParamOf<T>* mean;
  ParamOf<T>* rstd;
};

// dy is of dy_type, as y_type above. Outputs that nobody wants are null.
template <typename T>
struct CudaBackwardTensors {
  const void* dy;
  ElementType dy_type;
  const T* x;
  const ParamOf<T>* gamma;
  const ParamOf<T>* beta;
  const ParamOf<T>* mean;
  const ParamOf<T>* rstd;
  const T* side;
  T* dx;
  ParamOf<T>* dgamma;
  ParamOf<T>* dbeta;
  T* dside;
};

// Where and how a pass runs. `one_launch` forbids to split it over launches; the gradients of
// gamma and beta still take one more unless they are sums over single groups.
struct CudaCall {
  CudaDevice device;
  bool one_launch;
  void* workspace;
  void* stream;
};

// Bytes of scratch memory of a pass.
template <typename T>
int64_t CudaForwardWorkspace(const Normalization& p, ElementType y_type, bool one_launch,
                             const CudaDevice& device);
template <typename T>
int64_t CudaBackwardWorkspace(const Normalization& p, ElementType dy_type, bool one_launch,
                              const CudaDevice& device);

// Queue the work of a pass and return "", or return what went wrong. Statistics of nothing are
// mean 0 and variance 0, sums of nothing are 0.
template <typename T>
std::string NormalizeForwardCuda(const Normalization& p, const CudaForwardTensors<T>& tensors,
                                 const CudaCall& call);
template <typename T>
std::string NormalizeBackwardCuda(const Normalization& p, const CudaBackwardTensors<T>& tensors,
                                  const CudaCall& call);

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_PASS_H_
