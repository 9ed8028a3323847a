// StandardizeWeights on a CUDA device: a Normalization in which every output channel is a group. If
// the axes do not allow that view, a block for every output channel.
#include "kernels/cuda/moments.cuh"
#include "kernels/cuda/pass.h"
#include "kernels/cuda/standardize_weights.h"
#include "kernels/cuda/walk.cuh"

namespace tfgn {
namespace cuda {
namespace {

// The sizes of w, alternately reduced and kept, reduced first.
struct Runs {
  static constexpr int kMax = 32;

  int count;
  int64_t size[kMax];

  // The offset in w of index `index` into the kept sizes (first = 1) or the reduced ones (first =
  // 0).
  __device__ int64_t Offset(int first, int64_t index) const {
    int64_t offset = 0, stride = 1;
    for (int i = count - 1; i >= 0; --i) {
      if (i % 2 == first) {
        offset += index % size[i] * stride;
        index /= size[i];
      }
      stride *= size[i];
    }
    return offset;
  }
};

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

template <typename T>
struct ScatteredArgs {
  Normalization p;
  Runs runs;
  int64_t fan_in;
  const T* w;
  const ParamOf<T>* gain;  // or null
  void* w_hat;             // or dw_hat, of `type`
  ElementType type;
  ParamOf<T>* mean;
  ParamOf<T>* rstd;
  T* dw;              // or null
  ParamOf<T>* dgain;  // or null
};

// f(value) for the values of all warps, in order, in every thread.
template <typename V, class F>
__device__ inline void ForEachWarpsValue(V value, F&& f) {
  V* const values = reinterpret_cast<V*>(SharedMemory());
  if (threadIdx.x % kWarp == 0) values[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) f(values[i]);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ScatteredForwardKernel(const __grid_constant__ ScatteredArgs<T> args) {
  using CT = ParamOf<T>;
  const int64_t output = blockIdx.x, base = args.runs.Offset(1, output);
  CudaMoments<CT> own, all;
  for (int64_t i = threadIdx.x; i < args.fan_in; i += kThreads) {
    own.Add(Widen(args.w[base + args.runs.Offset(0, i)]));
  }
  ForEachWarpsValue(MomentsOfWarp(own), [&](const CudaMoments<CT>& m) { all.Merge(m); });
  const double mean = static_cast<double>(all.mean) + static_cast<double>(all.rest);
  const double rstd = args.p.Rstd(all.m2);
  if (threadIdx.x == 0) {
    args.mean[output] = static_cast<CT>(mean);
    args.rstd[output] = static_cast<CT>(rstd);
  }
  const CT scale =
      static_cast<CT>(rstd * args.p.scale) * (args.gain == nullptr ? CT(1) : args.gain[output]);
  WithElements<CT>(args.type, args.w_hat, [&](auto* w_hat) {
    for (int64_t i = threadIdx.x; i < args.fan_in; i += kThreads) {
      const int64_t at = base + args.runs.Offset(0, i);
      Narrow(((Widen(args.w[at]) - all.mean) - all.rest) * scale, w_hat + at);
    }
  });
}

template <typename CT>
struct ScatteredSums {
  CT dw_hat = 0, product = 0;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ScatteredBackwardKernel(const __grid_constant__ ScatteredArgs<T> args) {
  using CT = ParamOf<T>;
  const int64_t output = blockIdx.x, base = args.runs.Offset(1, output);
  const CT mean = args.mean[output];
  WithElements<CT>(args.type, static_cast<const void*>(args.w_hat), [&](const auto* dw_hat) {
    ScatteredSums<CT> own, all;
    for (int64_t i = threadIdx.x; i < args.fan_in; i += kThreads) {
      const int64_t at = base + args.runs.Offset(0, i);
      own.dw_hat += Widen(dw_hat[at]);
      own.product += Widen(dw_hat[at]) * (Widen(args.w[at]) - mean);
    }
    own = {SumOfWarp(own.dw_hat), SumOfWarp(own.product)};
    ForEachWarpsValue(own, [&](const ScatteredSums<CT>& sums) {
      all.dw_hat += sums.dw_hat;
      all.product += sums.product;
    });
    const double rstd = args.rstd[output], size = static_cast<double>(args.fan_in);
    const double gain = args.gain == nullptr ? 1 : static_cast<double>(args.gain[output]);
    if (threadIdx.x == 0 && args.dgain != nullptr) {
      args.dgain[output] = static_cast<CT>(all.product * rstd * args.p.scale);
    }
    if (args.dw == nullptr) return;
    const double scale = gain * args.p.scale;
    const CT of_dw_hat = static_cast<CT>(rstd * scale);
    const CT slope = static_cast<CT>(all.product * scale * args.p.RstdSlope(rstd));
    const CT offset = static_cast<CT>(-rstd * scale * all.dw_hat / size);
    for (int64_t i = threadIdx.x; i < args.fan_in; i += kThreads) {
      const int64_t at = base + args.runs.Offset(0, i);
      const CT centered = Widen(args.w[at]) - mean;
      Narrow(Widen(dw_hat[at]) * of_dw_hat + (centered * slope + offset), args.dw + at);
    }
  });
}

template <typename T>
std::string LaunchPerOutput(void (*kernel)(ScatteredArgs<T>), const CudaWork& work,
                            ScatteredArgs<T> args, void* stream) {
  if (work.runs.size() > Runs::kMax) {
    return "w has more alternations of output-channel axes and others than the CUDA kernel can "
           "follow, 32";
  }
  const int64_t outputs = work.p.c;
  if (outputs > INT32_MAX) return "w has more output channels than CUDA has blocks";
  args.p = work.p;
  args.fan_in = work.p.b;
  args.runs.count = static_cast<int>(work.runs.size());
  std::copy(work.runs.begin(), work.runs.end(), args.runs.size);
  const int shared_bytes = kWarps * static_cast<int>(sizeof(CudaMoments<ParamOf<T>>));
  return Launch(kernel, {outputs, kThreads, 1, shared_bytes}, stream, args);
}

// CudaLaunchers.
template <typename T>
std::string LaunchScattered(const CudaWork& work, const ErasedForwardTensors<T>& t, void*,
                            void* stream) {
  ScatteredArgs<T> args = {};
  args.w = t.x;
  args.gain = t.gamma;
  args.w_hat = t.y;
  args.type = t.y_type;
  args.mean = t.mean;
  args.rstd = t.rstd;
  return LaunchPerOutput(ScatteredForwardKernel<T>, work, args, stream);
}

template <typename T>
std::string LaunchScattered(const CudaWork& work, const ErasedBackwardTensors<T>& t, void*,
                            void* stream) {
  ScatteredArgs<T> args = {};
  args.w = t.x;
  args.gain = t.gamma;
  args.w_hat = const_cast<void*>(t.dy);
  args.type = t.dy_type;
  args.mean = const_cast<ParamOf<T>*>(t.mean);
  args.rstd = const_cast<ParamOf<T>*>(t.rstd);
  args.dw = t.dx;
  args.dgain = work.p.gamma == Affine::kAbsent ? nullptr : t.dgamma;
  return LaunchPerOutput(ScatteredBackwardKernel<T>, work, args, stream);
}

}  // namespace
}  // namespace cuda

template <class Tensors>
CudaPass<Tensors> Plan(const StandardizeWeightsShape& shape, const CudaQueue& queue) {
  const Normalization p = NormalizationOf(shape);
  if (!shape.runs.empty()) return {{p, {}, shape.runs}, cuda::LaunchScattered, 0};
  return Plan<Tensors>(p, /*one_launch=*/true, queue.device);
}

#define TFGN_INSTANTIATE(T, Tout)                                                  \
  template CudaPass<ForwardTensors<T, Tout>> Plan(const StandardizeWeightsShape&,  \
                                                  const CudaQueue&);               \
  template CudaPass<BackwardTensors<T, Tout>> Plan(const StandardizeWeightsShape&, \
                                                   const CudaQueue&);
TFGN_FOR_EACH_DTYPE_PAIR(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
