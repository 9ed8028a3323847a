// A pass of an op on a CUDA device, planned once and then queued. `Tensors` are ForwardTensors or
// BackwardTensors of the types of the call; all their pointers are to device memory:
//
//   const auto pass = Plan<ForwardTensors<float>>(shape, queue);
//   error = pass.Run(tensors, <pass.workspace_bytes() bytes, aligned to 64>, queue);
//
// Plan has an overload for the shape of every op, in <op>.h; CpuPass is the same for the CPU.
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

template <class Tensors>
class CudaPass;

// Queues a pass as planned.
template <class Tensors>
using CudaLauncher = std::string (*)(const CudaPass<Tensors>& pass, const Tensors& tensors,
                                     void* workspace, void* stream);

template <class Tensors>
class CudaPass {
 public:
  // Empty `runs`: the Normalization itself, as `plan` has it unless it is empty.
  CudaPass(const Normalization& p, const CudaPlan& plan, std::vector<int64_t> runs,
           CudaLauncher<Tensors> launcher, int64_t workspace_bytes)
      : p_(p),
        plan_(plan),
        runs_(std::move(runs)),
        launcher_(launcher),
        workspace_bytes_(workspace_bytes) {}

  int64_t workspace_bytes() const { return workspace_bytes_; }

  // Queues the work and returns "", or returns what went wrong. The same bits come out on every
  // call on the same kind of device.
  std::string Run(const Tensors& tensors, void* workspace, const CudaQueue& queue) const {
    return launcher_(*this, tensors, workspace, queue.stream);
  }

  const Normalization& p() const { return p_; }
  const CudaPlan& plan() const { return plan_; }
  // Sizes as StandardizeWeightsShape has them.
  const std::vector<int64_t>& runs() const { return runs_; }

 private:
  Normalization p_;
  CudaPlan plan_;
  std::vector<int64_t> runs_;
  CudaLauncher<Tensors> launcher_;
  int64_t workspace_bytes_;
};

// The type of y or dy for kernels, which are compiled once for all that it can be: double where T
// is double, any other type elsewhere.
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

template <typename T>
using ErasedForwardTensors = ForwardTensors<T, void>;  // y is of an ElementType
template <typename T>
using ErasedBackwardTensors = BackwardTensors<T, void>;  // dy is of an ElementType

// Queue a Normalization. Statistics of nothing are mean 0 and variance 0, sums of nothing are 0.
template <typename T>
std::string LaunchForward(const Normalization& p, const CudaPlan& plan,
                          const ErasedForwardTensors<T>& tensors, ElementType y_type,
                          void* workspace, void* stream);
template <typename T>
std::string LaunchBackward(const Normalization& p, const CudaPlan& plan,
                           const ErasedBackwardTensors<T>& tensors, ElementType dy_type,
                           void* workspace, void* stream);

template <typename T, typename Tout>
std::string LaunchNormalization(const CudaPass<ForwardTensors<T, Tout>>& pass,
                                const ForwardTensors<T, Tout>& t, void* workspace, void* stream) {
  ErasedForwardTensors<T> erased;
  erased.x = t.x;
  erased.gamma = t.gamma;
  erased.beta = t.beta;
  erased.side_input = t.side_input;
  erased.y = t.y;
  erased.mean = t.mean;
  erased.rstd = t.rstd;
  return LaunchForward(pass.p(), pass.plan(), erased, ElementTypeOf<Tout>(), workspace, stream);
}

template <typename T, typename Tout>
std::string LaunchNormalization(const CudaPass<BackwardTensors<T, Tout>>& pass,
                                const BackwardTensors<T, Tout>& t, void* workspace, void* stream) {
  ErasedBackwardTensors<T> erased;
  erased.dy = t.dy;
  erased.x = t.x;
  erased.gamma = t.gamma;
  erased.beta = t.beta;
  erased.mean = t.mean;
  erased.rstd = t.rstd;
  erased.side_input = t.side_input;
  erased.dx = t.dx;
  erased.dgamma = t.dgamma;
  erased.dbeta = t.dbeta;
  erased.dside = t.dside;
  return LaunchBackward(pass.p(), pass.plan(), erased, ElementTypeOf<Tout>(), workspace, stream);
}

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

// A pass of an op that is a Normalization and nothing more. `one_launch` forbids to split it over
// launches; the gradients of gamma and beta still take one more unless they are sums over single
// groups.
template <class Tensors>
CudaPass<Tensors> PlanNormalization(const Normalization& p, bool one_launch,
                                    const CudaDevice& device) {
  if (p.empty()) return {p, {}, {}, LaunchNormalization, 0};
  CudaTraits traits = CudaTraitsOf<Tensors>::value;
  traits.one_launch = one_launch;
  const CudaPlan plan = PlanCuda(p, traits, device);
  return {p, plan, {}, LaunchNormalization, CudaScratch(p, plan).bytes};
}

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_PASS_H_
