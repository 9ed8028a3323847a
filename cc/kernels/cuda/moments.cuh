// Mean and sum of squared deviations of many numbers, in a fixed order and without the
// cancellation of E[x^2] - E[x]^2.
#ifndef TFGN_KERNELS_CUDA_MOMENTS_CUH_
#define TFGN_KERNELS_CUDA_MOMENTS_CUH_

#include "kernels/cuda/util.cuh"

namespace tfgn {
namespace cuda {

// The mean is mean + rest, where `rest` is the rounding of `mean`. A mean that is large beside the
// deviations then costs them no accuracy.
template <typename CT>
struct CudaMoments {
  CT count = 0, mean = 0, rest = 0, m2 = 0;

  // Chan, Golub & LeVeque 1979.
  __device__ void Merge(const CudaMoments& other) {
    if (other.count == CT(0)) return;
    if (count == CT(0)) {
      *this = other;
      return;
    }
    const CT total = count + other.count, share = other.count / total;
    const CT delta = (other.mean - mean) + (other.rest - rest);
    m2 += other.m2 + delta * delta * (count * share);
    count = total;
    Shift(delta * share);
  }

  __device__ void Add(CT x) { Merge({1, x, 0, 0}); }

  // Adds to the mean.
  __device__ void Shift(CT by) {
    const CT moved = rest + by, sum = mean + moved;
    rest = moved - (sum - mean);
    mean = sum;
  }
};

// The moments of all lanes of a warp, in lane 0.
template <typename CT>
__device__ inline CudaMoments<CT> MomentsOfWarp(CudaMoments<CT> m) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    CudaMoments<CT> other;
    other.count = __shfl_down_sync(kAllLanes, m.count, offset);
    other.mean = __shfl_down_sync(kAllLanes, m.mean, offset);
    other.rest = __shfl_down_sync(kAllLanes, m.rest, offset);
    other.m2 = __shfl_down_sync(kAllLanes, m.m2, offset);
    m.Merge(other);
  }
  return m;
}

// The moments of each lane of the vectors that a thread reads.
template <typename CT, int V>
struct LaneMoments {
  CT count = 0;  // of each lane
  CT mean[V] = {}, rest[V] = {}, m2[V] = {};

  // Adds `live` of U vectors.
  template <int U>
  __device__ __forceinline__ void Add(const CT (&x)[U][V], int live) {
    if (live == U) {
      AddBatch<U, true>(x, U);
    } else {
      AddBatch<U, false>(x, live);
    }
  }

  // Merges the moments of every `merged` neighbouring lanes into the first of them.
  __device__ __forceinline__ void MergeNeighbours(int merged) {
#pragma unroll
    for (int step = 1; step < V; step *= 2) {
      if (step >= merged) break;
#pragma unroll
      for (int l = 0; l < V; l += 2 * step) {
        CudaMoments<CT> m = Lane(l, step);
        m.Merge(Lane(l + step, step));
        mean[l] = m.mean;
        rest[l] = m.rest;
        m2[l] = m.m2;
      }
    }
  }

  // The moments of lane l, or of `merged` lanes from lane l on.
  __device__ CudaMoments<CT> Lane(int l, int merged) const {
    return {count * static_cast<CT>(merged), mean[l], rest[l], m2[l]};
  }

 private:
  // Merges the moments of a batch, computed about `mean`.
  template <int U, bool kAll>
  __device__ __forceinline__ void AddBatch(const CT (&x)[U][V], int live) {
    const CT added = static_cast<CT>(kAll ? U : live), one_nth = CT(1) / added;
    const CT total = count + added, share = added / total, weight = count * share;
    const bool first = count == CT(0);
    count = total;
#pragma unroll
    for (int l = 0; l < V; ++l) {
      if (first) mean[l] = x[0][l];
      CT sum = 0, squares = 0;
#pragma unroll
      for (int u = 0; u < U; ++u) {
        if (kAll || u < live) sum += x[u][l] - mean[l];
      }
      const CT batch_mean = sum * one_nth;
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const CT deviation = (x[u][l] - mean[l]) - batch_mean;
        if (kAll || u < live) squares += deviation * deviation;
      }
      const CT delta = batch_mean - rest[l];
      m2[l] += squares + delta * delta * weight;
      const CT moved = rest[l] + delta * share, next = mean[l] + moved;
      rest[l] = moved - (next - mean[l]);
      mean[l] = next;
    }
  }
};

}  // namespace cuda
}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_MOMENTS_CUH_
