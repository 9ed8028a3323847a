// GroupNorm on a CUDA device.
#ifndef TFGN_KERNELS_CUDA_GROUP_NORM_H_
#define TFGN_KERNELS_CUDA_GROUP_NORM_H_

#include "kernels/cuda/pass.h"
#include "kernels/group_norm.h"

namespace tfgn {

template <class Tensors>
CudaPass<Tensors> Plan(const GroupNormShape& shape, const CudaQueue& queue);

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_GROUP_NORM_H_
