// StandardizeWeights on a CUDA device, one launch forward and one backward. The formulas, tensors
// and shapes are those of standardize_weights.h; all pointers but those of structs are to device
// memory.
#ifndef TFGN_KERNELS_CUDA_STANDARDIZE_WEIGHTS_H_
#define TFGN_KERNELS_CUDA_STANDARDIZE_WEIGHTS_H_

#include <cstdint>
#include <string>

#include "kernels/cuda/device.h"
#include "kernels/standardize_weights.h"

namespace tfgn {

// Queue the work on `stream`, a cudaStream_t of the calling thread's current device, which `device`
// describes, and return "", or return what went wrong. No scratch memory is needed. The same bits
// come out on every call on the same kind of device. dw may be dw_hat itself.
template <typename T, typename Tout>
std::string StandardizeWeightsForwardCuda(const StandardizeWeightsShape& shape,
                                          const StandardizeWeightsForwardTensors<T, Tout>& tensors,
                                          const CudaDevice& device, void* stream);
template <typename T, typename Tout>
std::string StandardizeWeightsBackwardCuda(
    const StandardizeWeightsShape& shape, const StandardizeWeightsBackwardTensors<T, Tout>& tensors,
    const CudaDevice& device, void* stream);

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_STANDARDIZE_WEIGHTS_H_
