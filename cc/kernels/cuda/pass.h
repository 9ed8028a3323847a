// A pass of an op on a CUDA device, planned once and then queued. `Tensors` is ForwardTensors or
// BackwardTensors of the element types of the call. All their pointers are to device memory:
//
//   const auto pass = Plan<ForwardTensors<float>>(shape, queue);
//   error = pass.Run(tensors, <pass.workspace_bytes() bytes, aligned to 64>, queue);
//
// Plan has an overload for the shape of every op, in <op>.h. CpuPass is the same for the CPU.
#ifndef TFGN_KERNELS_CUDA_PASS_H_
#define TFGN_KERNELS_CUDA_PASS_H_

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/plan.h"
#include "kernels/normalize.h"

namespace tfgn {

// The type of y and dy, known at run time only: a kernel is compiled once for all that it can be,
// which is double if T is double, and any other type else.
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

// The tensors of a pass as kernels take them: y and dy are of an ElementType.
template <typename T>
struct ErasedForwardTensors : ForwardTensors<T, void> {
  ElementType y_type;
};
template <typename T>
struct ErasedBackwardTensors : BackwardTensors<T, void> {
  ElementType dy_type;  // and that of y
};

template <typename T, typename Tout>
ErasedForwardTensors<T> Erased(const ForwardTensors<T, Tout>& t) {
  ErasedForwardTensors<T> erased;
  erased.x = t.x;
  erased.gamma = t.gamma;
  erased.beta = t.beta;
  erased.side_input = t.side_input;
  erased.y = t.y;
  erased.y_type = ElementTypeOf<Tout>();
  erased.mean = t.mean;
  erased.rstd = t.rstd;
  erased.rest = t.rest;
  return erased;
}

template <typename T, typename Tout>
ErasedBackwardTensors<T> Erased(const BackwardTensors<T, Tout>& t) {
  ErasedBackwardTensors<T> erased;
  erased.dy = t.dy;
  erased.dy_type = ElementTypeOf<Tout>();
  erased.x = t.x;
  erased.gamma = t.gamma;
  erased.beta = t.beta;
  erased.mean = t.mean;
  erased.rstd = t.rstd;
  erased.rest = t.rest;
  erased.side_input = t.side_input;
  erased.dx = t.dx;
  erased.dgamma = t.dgamma;
  erased.dbeta = t.dbeta;
  erased.dside = t.dside;
  erased.y = t.y;
  return erased;
}

// A Normalization and how it runs. `plan` is set unless it is empty or has `runs`, which are sizes
// as in StandardizeWeightsShape.
struct CudaWork {
  Normalization p;
  CudaPlan plan;
  std::vector<int64_t> runs;
};

// Queues a pass as planned and returns "", or returns an error.
template <class ErasedTensors>
using CudaLauncher = std::string (*)(const CudaWork& work, const ErasedTensors& tensors,
                                     void* workspace, void* stream);

template <class Tensors>
class CudaPass {
 public:
  using Launcher = CudaLauncher<decltype(Erased(Tensors()))>;

  CudaPass(CudaWork work, Launcher launcher, int64_t workspace_bytes)
      : work_(std::move(work)), launcher_(launcher), workspace_bytes_(workspace_bytes) {}

  int64_t workspace_bytes() const { return workspace_bytes_; }

  // Queues the work and returns "", or returns an error. Computes the same bits on every call on
  // devices of the same kind.
  std::string Run(const Tensors& tensors, void* workspace, const CudaQueue& queue) const {
    return launcher_(work_, Erased(tensors), workspace, queue.stream);
  }

 private:
  CudaWork work_;
  Launcher launcher_;
  int64_t workspace_bytes_;
};

// CudaLaunchers of a Normalization. Mean and variance of no elements are 0, and so are sums.
template <typename T>
std::string LaunchNormalization(const CudaWork& work, const ErasedForwardTensors<T>& tensors,
                                void* workspace, void* stream);
template <typename T>
std::string LaunchNormalization(const CudaWork& work, const ErasedBackwardTensors<T>& tensors,
                                void* workspace, void* stream);

template <class Tensors>
struct CudaTraitsOf;
template <typename T, typename Tout>
struct CudaTraitsOf<ForwardTensors<T, Tout>> {
  static constexpr CudaTraits value = {sizeof(T), sizeof(Tout), 0, sizeof(ParamOf<T>)};
};
template <typename T, typename Tout>
struct CudaTraitsOf<BackwardTensors<T, Tout>> {
  static constexpr CudaTraits value = {sizeof(T), sizeof(T), sizeof(Tout), sizeof(ParamOf<T>)};
};

// A pass of a Normalization. `one_launch` forbids two launches; the gradients of gamma and beta
// still take one more unless they are sums over single groups.
template <class Tensors>
CudaPass<Tensors> Plan(const Normalization& p, bool one_launch, const CudaDevice& device) {
  if (p.empty()) return {{p, {}, {}}, LaunchNormalization, 0};
  CudaTraits traits = CudaTraitsOf<Tensors>::value;
  traits.one_launch = one_launch;
  const CudaPlan plan = PlanCuda(p, traits, device);
  return {{p, plan, {}}, LaunchNormalization, CudaScratch(p, plan).bytes};
}

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_PASS_H_
