// GroupNorm on a CUDA device. The formulas, tensors and shapes are those of group_norm.h; all
// pointers but those of structs are to device memory.
#ifndef TFGN_KERNELS_CUDA_GROUP_NORM_H_
#define TFGN_KERNELS_CUDA_GROUP_NORM_H_

#include <cstdint>
#include <string>

#include "kernels/cuda/device.h"
#include "kernels/group_norm.h"

namespace tfgn {

// Bytes of device memory that a call needs for scratch, aligned to 64.
template <typename T>
int64_t GroupNormForwardWorkspaceCuda(const GroupNormShape& shape, const CudaDevice& device);
template <typename T>
int64_t GroupNormBackwardWorkspaceCuda(const GroupNormShape& shape, const CudaDevice& device);

// Queue the work on `stream`, a cudaStream_t of the calling thread's current device, which `device`
// describes, and return "", or return what went wrong. The same bits come out on every call on
// the same kind of device. Aliases are those that group_norm.h allows.
template <typename T>
std::string GroupNormForwardCuda(const GroupNormShape& shape,
                                 const GroupNormForwardTensors<T>& tensors,
                                 const CudaDevice& device, void* workspace, void* stream);
template <typename T>
std::string GroupNormBackwardCuda(const GroupNormShape& shape,
                                  const GroupNormBackwardTensors<T>& tensors,
                                  const CudaDevice& device, void* workspace, void* stream);

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_GROUP_NORM_H_
