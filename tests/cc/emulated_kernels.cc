// The CUDA kernels' own source, compiled for the CPU: this folder's cuda_emulation/ stands in for
// CUDA's headers.
#include "kernels/cuda/backward.cu"
#include "kernels/cuda/forward.cu"
#include "kernels/cuda/group_norm.cu"
#include "kernels/cuda/standardize_weights.cu"
