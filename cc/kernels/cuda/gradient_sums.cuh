// Sums of gradients on a CUDA device, from lanes of vectors to the gradients of gamma and beta.
#ifndef TFGN_KERNELS_CUDA_GRADIENT_SUMS_CUH_
#define TFGN_KERNELS_CUDA_GRADIENT_SUMS_CUH_

#include <cstdint>
#include <string>

#include "kernels/cuda/util.cuh"

namespace tfgn {
namespace cuda {

// Sums of dz and dz * (x - mean) over a group, weighted by gamma. `last` are those of the last
// channel without weights: if a group is one channel, the gradients of beta and gamma.
template <typename CT>
struct GroupSums {
  CT dz, dz_centered, last_dz, last_dz_centered;
};

template <typename CT>
struct ChannelSums {
  CT dz, dz_centered;
};

// The sums of each lane of the vectors that a thread reads.
template <typename CT, int V>
struct LaneSums {
  CT dz[V] = {}, dz_centered[V] = {};

  template <int U>
  __device__ __forceinline__ void Add(const CT (&centered)[U][V], const CT (&d)[U][V]) {
#pragma unroll
    for (int l = 0; l < V; ++l) {
      CT sum = d[0][l], product = d[0][l] * centered[0][l];
#pragma unroll
      for (int u = 1; u < U; ++u) {
        sum += d[u][l];
        product += d[u][l] * centered[u][l];
      }
      dz[l] += sum;
      dz_centered[l] += product;
    }
  }

  // Adds the sums of every `merged` neighbouring lanes up in the first of them.
  __device__ __forceinline__ void MergeNeighbours(int merged) {
#pragma unroll
    for (int step = 1; step < V; step *= 2) {
      if (step >= merged) break;
#pragma unroll
      for (int l = 0; l < V; l += 2 * step) {
        dz[l] += dz[l + step];
        dz_centered[l] += dz_centered[l + step];
      }
    }
  }
};

template <typename CT>
struct AffineArgs {
  int64_t n, chunks, c;
  const CT* affine_sums;  // [n, chunks, 2, C]
  Affine affine[2];       // of beta and of gamma
  CT* gradient[2];        // or null
};

constexpr int kSlices = 8;

// The lanes of a warp are 32 channels. Each warp adds up every kSlices-th chunk, in double.
template <typename CT>
__global__ void __launch_bounds__(kWarp* kSlices)
    AffineKernel(const __grid_constant__ AffineArgs<CT> args) {
  const int64_t blocks = (args.c + kWarp - 1) / kWarp;
  const int which = static_cast<int>(blockIdx.x % 2);
  const int64_t n = blockIdx.x / 2 / blocks, lane = threadIdx.x % kWarp;
  const int64_t channel = blockIdx.x / 2 % blocks * kWarp + lane;
  const bool per_sample = args.affine[which] == Affine::kPerSample;
  if (args.gradient[which] == nullptr || (n > 0 && !per_sample)) return;

  double* const slices = reinterpret_cast<double*>(SharedMemory());
  const int64_t begin = per_sample ? n * args.chunks : 0;
  const int64_t count = per_sample ? args.chunks : args.n * args.chunks;
  double sum = 0;
  if (channel < args.c) {
    for (int64_t i = threadIdx.x / kWarp; i < count; i += kSlices) {
      sum += args.affine_sums[((begin + i) * 2 + which) * args.c + channel];
    }
  }
  slices[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= kWarp || channel >= args.c) return;
  for (int slice = 1; slice < kSlices; ++slice) sum += slices[slice * kWarp + lane];
  args.gradient[which][n * args.c + channel] = static_cast<CT>(sum);
}

template <typename CT>
std::string LaunchAffine(const AffineArgs<CT>& args, void* stream) {
  const bool per_sample =
      args.affine[0] == Affine::kPerSample || args.affine[1] == Affine::kPerSample;
  const int64_t blocks = 2 * ((args.c + kWarp - 1) / kWarp) * (per_sample ? args.n : 1);
  if (blocks > INT32_MAX) return "the gradients of gamma and beta take more blocks than CUDA has";
  constexpr int kThreads = kWarp * kSlices;
  return Launch(AffineKernel<CT>,
                {blocks, kThreads, 1, kThreads * static_cast<int>(sizeof(double))}, stream, args);
}

}  // namespace cuda
}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_GRADIENT_SUMS_CUH_
