// The CUDA kernels' own source, compiled for the CPU: this folder's cuda_emulation/ stands in for
// CUDA's headers.
#include "kernels/group_norm_cuda.cu"
#include "kernels/normalize_backward_cuda.cu"
#include "kernels/normalize_forward_cuda.cu"
#include "kernels/standardize_weights_cuda.cu"
