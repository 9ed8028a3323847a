#include "kernels/cuda/group_norm.h"

namespace tfgn {

template <class Tensors>
CudaPass<Tensors> Plan(const GroupNormShape& shape, const CudaQueue& queue) {
  return Plan<Tensors>(NormalizationOf(shape), /*one_launch=*/false, queue.device);
}

#define TFGN_INSTANTIATE(T)                                                           \
  template CudaPass<ForwardTensors<T>> Plan(const GroupNormShape&, const CudaQueue&); \
  template CudaPass<BackwardTensors<T>> Plan(const GroupNormShape&, const CudaQueue&);
TFGN_FOR_EACH_DTYPE(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
