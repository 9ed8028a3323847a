// What CUDA kernels share: vectors from and to memory of any element type, sums across a warp in a
// fixed order, activations, launches.
#ifndef TFGN_KERNELS_CUDA_UTIL_CUH_
#define TFGN_KERNELS_CUDA_UTIL_CUH_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <utility>

#include "kernels/cuda/pass.h"
#include "kernels/dtypes.h"

namespace tfgn {
namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFF;

// The shared memory that a launch asked for.
__device__ inline char* SharedMemory() {
#ifdef __CUDACC__
  extern __shared__ uint4 memory[];
  return reinterpret_cast<char*>(memory);
#else
  return cuda_emulation::SharedMemory();  // in tests/cc
#endif
}

// --- elements ---

__device__ inline float Widen(float16 v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ inline float Widen(bfloat16 v) {
  return __uint_as_float(static_cast<unsigned>(v.bits) << 16);
}
__device__ inline float Widen(float v) { return v; }
__device__ inline double Widen(double v) { return v; }

__device__ inline void Narrow(float v, float16* to) {
  to->bits = __half_as_ushort(__float2half_rn(v));
}
__device__ inline void Narrow(float v, bfloat16* to) {
  // To nearest, ties to even; a NaN stays one.
  const unsigned bits = __float_as_uint(v);
  const unsigned rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>(v == v ? rounded : 0x7FC0);
}
__device__ inline void Narrow(float v, float* to) { *to = v; }
__device__ inline void Narrow(double v, double* to) { *to = v; }

// V elements that are accessed at once, 16 bytes at a time at most.
template <typename T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Vector {
  T lane[V];
};

// Which lanes of a vector to access. `whole`: all of them, at an aligned address.
struct Lanes {
  bool whole;
  int first, last;
};

// Loads `live` of U vectors, `stride` elements apart. Lanes that are not read are 0.
template <typename T, typename CT, int U, int V>
__device__ __forceinline__ void Load(const T* from, int64_t stride, int live, Lanes lanes,
                                     CT (&to)[U][V]) {
  if (lanes.whole) {
    Vector<T, V> raw[U] = {};
#pragma unroll
    for (int u = 0; u < U; ++u) {
      if (u < live) raw[u] = *reinterpret_cast<const Vector<T, V>*>(from + u * stride);
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
      for (int l = 0; l < V; ++l) to[u][l] = Widen(raw[u].lane[l]);
    }
  } else {
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
      for (int l = 0; l < V; ++l) {
        const bool read = u < live && l >= lanes.first && l < lanes.last;
        to[u][l] = read ? Widen(from[u * stride + l]) : CT(0);
      }
    }
  }
}

template <typename T, typename CT, int U, int V>
__device__ __forceinline__ void Store(T* to, int64_t stride, int live, Lanes lanes,
                                      const CT (&values)[U][V]) {
#pragma unroll
  for (int u = 0; u < U; ++u) {
    if (u >= live) break;
    if (lanes.whole) {
      Vector<T, V> raw;
#pragma unroll
      for (int l = 0; l < V; ++l) Narrow(values[u][l], &raw.lane[l]);
      *reinterpret_cast<Vector<T, V>*>(to + u * stride) = raw;
    } else {
#pragma unroll
      for (int l = 0; l < V; ++l) {
        if (l >= lanes.first && l < lanes.last) Narrow(values[u][l], to + u * stride + l);
      }
    }
  }
}

// f(static_cast<T*>(p)) with T of `type`, a type whose arithmetic is that of CT.
template <typename CT, typename P, class F>
__device__ __forceinline__ void WithElements(ElementType type, P* p, F&& f) {
  constexpr bool kConst = std::is_const_v<P>;
  if constexpr (std::is_same_v<CT, double>) {
    f(static_cast<std::conditional_t<kConst, const double, double>*>(p));
  } else if (type == ElementType::kFloat) {
    f(static_cast<std::conditional_t<kConst, const float, float>*>(p));
  } else if (type == ElementType::kFloat16) {
    f(static_cast<std::conditional_t<kConst, const float16, float16>*>(p));
  } else {
    f(static_cast<std::conditional_t<kConst, const bfloat16, bfloat16>*>(p));
  }
}

// --- warps ---

template <typename CT>
__device__ inline CT SumOfWarp(CT v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    v += __shfl_down_sync(kAllLanes, v, offset);
  }
  return v;  // of lane 0; in other lanes a partial sum
}

// --- clusters: of one block on devices without clusters ---

__device__ inline void SyncCluster() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
#endif
}

// The same address in the shared memory of block `rank` of the cluster.
template <typename CT>
__device__ inline const CT* InBlock(const CT* shared, unsigned rank) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  return static_cast<const CT*>(__cluster_map_shared_rank(shared, rank));
#else
  return shared;
#endif
}

// --- arithmetic ---

// a * b + c in one rounding: the same bits wherever it stands.
__device__ inline float MulAdd(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double MulAdd(double a, double b, double c) { return fma(a, b, c); }

// --- activations ---

// exp(-z) and 1 / v for v >= 1, to a relative 1e-6 or better for float.
__device__ inline float ExpOfNegative(float z) { return expf(-z); }
__device__ inline double ExpOfNegative(double z) { return exp(-z); }
__device__ inline float Reciprocal(float v) {
  // An approximation and one step of Newton's method take a third of a division.
  const float r = __fdividef(1.0f, v);
  return fmaf(r, fmaf(-v, r, 1.0f), r);
}
__device__ inline double Reciprocal(double v) { return 1.0 / v; }

// z, or -87 if z is less: exp(-z) is finite, and z * sigmoid(z) of less is 0 in any precision.
// Keeps NaN.
template <typename CT>
__device__ inline CT SigmoidRange(CT z) {
  return z < CT(-87) ? CT(-87) : z;
}
// 1 / (1 + exp(-z)) for z >= -87.
template <typename CT>
__device__ inline CT Sigmoid(CT z) {
  return Reciprocal(CT(1) + ExpOfNegative(z > CT(87) ? CT(87) : z));
}

// value = f(value, other) for all elements.
template <typename CT, int U, int V, class F>
__device__ __forceinline__ void ForEachElement(CT (&values)[U][V], const CT (&others)[U][V],
                                               F&& f) {
#pragma unroll
  for (int u = 0; u < U; ++u) {
#pragma unroll
    for (int l = 0; l < V; ++l) values[u][l] = f(values[u][l], others[u][l]);
  }
}

template <typename CT, int U, int V>
__device__ __forceinline__ void Activate(Activation activation, CT (&z)[U][V]) {
  if (activation == Activation::kRelu) {
    ForEachElement(z, z, [](CT v, CT) { return v < CT(0) ? CT(0) : v; });  // a NaN stays one
  } else if (activation == Activation::kSilu) {
    ForEachElement(z, z, [](CT v, CT) {
      const CT at = SigmoidRange(v);
      return at * Sigmoid(at);
    });
  }
}

// dy *= activation'(z) and z = activation(z), with the bits of Activate;
// silu'(z) = s * (1 + z * (1 - s)) with s = sigmoid(z).
template <typename CT, int U, int V>
__device__ __forceinline__ void ActivateBackward(Activation activation, CT (&z)[U][V],
                                                 CT (&dy)[U][V]) {
#pragma unroll
  for (int u = 0; u < U; ++u) {
#pragma unroll
    for (int l = 0; l < V; ++l) {
      CT& v = z[u][l];
      if (activation == Activation::kRelu) {
        dy[u][l] = v > CT(0) ? dy[u][l] : CT(0);
        v = v < CT(0) ? CT(0) : v;  // a NaN stays one
      } else if (activation == Activation::kSilu) {
        const CT at = SigmoidRange(v), s = Sigmoid(at);
        dy[u][l] *= s * (CT(1) + at * (CT(1) - s));
        v = at * s;
      }
    }
  }
}

// --- launches ---

// "" or what went wrong.
inline std::string ToError(const char* what, cudaError_t status) {
  if (status == cudaSuccess) return "";
  return std::string(what) + " failed: " + cudaGetErrorString(status) + " (" +
         cudaGetErrorName(status) + ")";
}

struct Grid {
  int64_t blocks;
  int threads;
  int cluster = 1;
  int shared_bytes = 0;
};

template <typename Args>
std::string Launch(void (*kernel)(Args), const Grid& grid, void* stream, const Args& args) {
  if (grid.shared_bytes > (48 << 10)) {
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared_bytes);
    if (status != cudaSuccess) return ToError("asking for shared memory", status);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute cluster = {};
  if (grid.cluster > 1) {
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(grid.cluster);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.attrs = &cluster;
    config.numAttrs = 1;
  }
  return ToError("launching a CUDA kernel", cudaLaunchKernelEx(&config, kernel, args));
}

}  // namespace cuda
}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_UTIL_CUH_
