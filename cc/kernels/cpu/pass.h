// A pass of an op on the CPU, planned once and then run. `Tensors` is ForwardTensors or
// BackwardTensors of the element types of the call:
//
//   const auto pass = Plan<ForwardTensors<float>>(shape, parallel);
//   pass.Run(tensors, <pass.workspace_bytes() bytes, aligned to 64>, parallel);
//
// Plan has an overload for the shape of every op, in <op>.h. CudaPass is the same for CUDA.
#ifndef TFGN_KERNELS_CPU_PASS_H_
#define TFGN_KERNELS_CPU_PASS_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <tuple>

#include "kernels/cpu/plan.h"
#include "kernels/parallel.h"

namespace tfgn {

// Runs a pass as planned.
template <class Tensors>
using CpuKernel = void (*)(const CpuPlan& plan, const Tensors& tensors, void* workspace,
                           const ParallelFor& parallel);

template <class Tensors>
class CpuPass {
 public:
  CpuPass(const CpuPlan& plan, CpuKernel<Tensors> kernel, int64_t workspace_bytes)
      : plan_(plan), kernel_(kernel), workspace_bytes_(workspace_bytes) {}

  int64_t workspace_bytes() const { return workspace_bytes_; }

  // Computes the same bits on every call and for any number of threads. Returns "", as CudaPass
  // does on success.
  std::string Run(const Tensors& tensors, void* workspace, const ParallelFor& parallel) const {
    kernel_(plan_, tensors, workspace, parallel);
    return "";
  }

 private:
  CpuPlan plan_;
  CpuKernel<Tensors> kernel_;
  int64_t workspace_bytes_;
};

// CpuKernels of an empty Normalization. Mean and variance of no elements are 0, and so are sums.
template <typename T, typename Tout>
void RunEmpty(const CpuPlan& plan, const ForwardTensors<T, Tout>& t, void*, const ParallelFor&) {
  const Normalization& p = plan.p;
  if (p.groups == 0) return;  // no output channel, and a size of groups that divides by 0
  std::fill_n(t.mean, p.n * p.groups, ParamOf<T>(0));
  std::fill_n(t.rstd, p.n * p.groups, static_cast<ParamOf<T>>(p.Rstd(0)));
  if (t.rest != nullptr) std::fill_n(t.rest, 2 * p.n * p.groups, ParamOf<T>(0));
}
template <typename T, typename Tout>
void RunEmpty(const CpuPlan& plan, const BackwardTensors<T, Tout>& t, void*, const ParallelFor&) {
  const Normalization& p = plan.p;
  if (t.dgamma != nullptr) std::fill_n(t.dgamma, p.affine_size(p.gamma), 0);
  if (t.dbeta != nullptr) std::fill_n(t.dbeta, p.affine_size(p.beta), 0);
}

// CpuKernels of any other, for the instruction set that Highway chooses.
template <typename T, typename Tout>
void RunNormalization(const CpuPlan& plan, const ForwardTensors<T, Tout>& tensors, void* workspace,
                      const ParallelFor& parallel);
template <typename T, typename Tout>
void RunNormalization(const CpuPlan& plan, const BackwardTensors<T, Tout>& tensors, void* workspace,
                      const ParallelFor& parallel);

// A pass of a Normalization.
template <class Tensors>
CpuPass<Tensors> Plan(const Normalization& p) {
  const CpuPlan plan(p);
  if (p.empty()) return {plan, RunEmpty, 0};
  return {plan, RunNormalization, PassScratch<Tensors>(plan, Scratch()).bytes};
}

// What one instruction set has for RunNormalization: a CpuKernel for each pair of element types.
template <class, class... Kernels>
using KernelTuple = std::tuple<Kernels...>;
#define TFGN_KERNEL(T, Tout) , CpuKernel<Tensors<T, Tout>>
template <template <typename, typename> class Tensors>
using KernelTable = KernelTuple<void TFGN_FOR_EACH_DTYPE_PAIR(TFGN_KERNEL)>;
#undef TFGN_KERNEL

}  // namespace tfgn

#endif  // TFGN_KERNELS_CPU_PASS_H_
