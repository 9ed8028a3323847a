#include "kernels/cpu/group_norm.h"

namespace tfgn {

template <class Tensors>
CpuPass<Tensors> Plan(const GroupNormShape& shape, const ParallelFor&) {
  return Plan<Tensors>(NormalizationOf(shape));
}

#define TFGN_INSTANTIATE(T)                                                            \
  template CpuPass<ForwardTensors<T>> Plan(const GroupNormShape&, const ParallelFor&); \
  template CpuPass<BackwardTensors<T>> Plan(const GroupNormShape&, const ParallelFor&);
TFGN_FOR_EACH_DTYPE(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
