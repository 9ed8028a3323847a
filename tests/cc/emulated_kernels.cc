// The source of the CUDA kernels, compiled for the CPU with cuda_emulation/ instead of CUDA's
// headers.
#include "kernels/cuda/backward.cu"
#include "kernels/cuda/forward.cu"
#include "kernels/cuda/group_norm.cu"
#include "kernels/cuda/standardize_weights.cu"
