// StandardizeWeights on a CUDA device, one launch forward and one backward. No scratch memory is
// needed.
#ifndef TFGN_KERNELS_CUDA_STANDARDIZE_WEIGHTS_H_
#define TFGN_KERNELS_CUDA_STANDARDIZE_WEIGHTS_H_

#include "kernels/cuda/pass.h"
#include "kernels/standardize_weights.h"

namespace tfgn {

template <class Tensors>
CudaPass<Tensors> Plan(const StandardizeWeightsShape& shape, const CudaQueue& queue);

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_STANDARDIZE_WEIGHTS_H_
