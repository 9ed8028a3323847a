// The forward pass of a Normalization on a CUDA device: moments, then one elementwise pass, in one
// launch or in two.
#include "kernels/cuda/moments.cuh"
#include "kernels/cuda/pass.h"
#include "kernels/cuda/walk.cuh"

namespace tfgn {
namespace cuda {
namespace {

template <typename T>
struct ForwardArgs : LaunchArgs {
  ErasedForwardTensors<T> t;
  ParamOf<T>* partial_sums;  // [N, G, parts] of CudaMoments
};

// The statistics that elements are normalized with. `rest`: what the mean lost when it was rounded
// to CT. rstd exists in CT only.
template <typename CT>
struct Statistics {
  CT mean, rest, rstd, unused;
};

template <typename T>
class ForwardBlock : Block<ForwardArgs<T>> {
  using Base = Block<ForwardArgs<T>>;
  using Base::part_, Base::w_, Base::GroupOf, Base::Keys, Base::Statistic, Base::in_cluster;
  using CT = ParamOf<T>;
  static constexpr int V = 16 / sizeof(T);
  // Vectors that a thread reads at once: as many as registers hold.
  static constexpr int kBatch = V == 8 ? 2 : 4;
  static constexpr int kElementBatch = 2;  // with as many of side_input, and the coefficients
  using Sums = CudaMoments<CT>;
  static_assert(sizeof(Sums) == kCudaGroupNumbers * sizeof(CT));

 public:
  __device__ explicit ForwardBlock(const ForwardArgs<T>& args) : Base(args) {}

  __device__ void Run() {
    ForEachSample(w_, &part_, [&] { RunSample(); });
  }

 private:
  __device__ void RunSample() {
    if (w_.launch != LaunchKind::kElements) {
      SumElements();
      __syncthreads();
      SumGroups();
      __syncthreads();
    }
    if (w_.launch == LaunchKind::kSums) {
      for (int g = threadIdx.x; g < part_.groups; g += blockDim.x) {
        PartialSums(g)[part_.index] = group_sums()[g];
      }
      return;
    }
    if (in_cluster()) SyncCluster();
    FinishGroups();
    if (in_cluster()) SyncCluster();  // no block ends while its sums are read
    __syncthreads();
    NormalizeElements();
  }

  __device__ Sums* group_sums() const { return InShared<Sums>(w_.plan.group_sums); }
  __device__ Statistics<CT>* statistics() const {
    return InShared<Statistics<CT>>(w_.plan.group_results);
  }
  // The sums of group g by all parts, in global memory.
  __device__ Sums* PartialSums(int g) const {
    return reinterpret_cast<Sums*>(w_.partial_sums) + Statistic(g) * w_.plan.parts;
  }

  // --- sums ---

  // Entries are moments [down, keys] with a count per row.
  __device__ void PutEntry(int row, int key, CT mean, CT rest, CT m2) const {
    const int count = w_.plan.down * w_.plan.keys, i = row * Keys() + key;
    CT* entries = InShared<CT>(w_.plan.entries);
    entries[i] = mean;
    entries[count + i] = rest;
    entries[2 * count + i] = m2;
  }
  __device__ CT& EntryCount(int row) const {
    return InShared<CT>(w_.plan.entries)[3 * w_.plan.down * w_.plan.keys + row];
  }
  __device__ Sums Entry(int row, int key) const {
    const int count = w_.plan.down * w_.plan.keys, i = row * Keys() + key;
    const CT* entries = InShared<CT>(w_.plan.entries);
    return {EntryCount(row), entries[i], entries[count + i], entries[2 * count + i]};
  }

  // f(x, live, lanes) for the batches of a stroke. Holds what it reads.
  template <class F>
  __device__ __forceinline__ void ReadStroke(const Stroke& s, int64_t* held, F&& f) const {
    ForEachBatch<kBatch, V>(s, false,
                            [&](int64_t at, int64_t stride, int64_t k, int live, Lanes lanes) {
                              CT x[kBatch][V];
                              Load(w_.t.x + at, stride, live, lanes, x);
                              if (w_.plan.held) {
                                Store(HeldVector(InShared<T>(0), V, *held + k),
                                      int64_t{V} * blockDim.x, live, {true, 0, V}, x);
                              }
                              f(x, live, lanes);
                            });
    *held += s.count;
  }

  __device__ void SumElements() const {
    LaneMoments<CT, V> sums;
    int64_t held = 0;
    if (w_.plan.by_columns) {
      const int merged = w_.plan.merged_lanes;
      ForEachStrokeOfColumns<V>(
          w_, part_, [&](int) { sums = {}; },
          [&](const Stroke& s) {
            ReadStroke(s, &held, [&](const auto& x, int live, Lanes) { sums.Add(x, live); });
          },
          [&](int column, int down) {
            sums.MergeNeighbours(merged);
#pragma unroll
            for (int l = 0; l < V; ++l) {
              if (l % merged != 0 || column + l >= part_.columns) continue;
              PutEntry(down, (column + l) / merged, sums.mean[l], sums.rest[l], sums.m2[l]);
            }
            if (column == 0) EntryCount(down) = sums.count * static_cast<CT>(merged);
          });
      return;
    }
    Sums edges;  // of vectors that two threads share
    ForEachStrokeOfRuns<V>(
        w_, part_,
        [&](int) {
          sums = {};
          edges = {};
        },
        [&](const Stroke& s) {
          ReadStroke(s, &held, [&](const auto& x, int live, Lanes lanes) {
            if (lanes.first == 0 && lanes.last == V) {
              sums.Add(x, live);
              return;
            }
#pragma unroll
            for (int l = 0; l < V; ++l) {
              if (l >= lanes.first && l < lanes.last) edges.Add(x[0][l]);
            }
          });
        },
        [&](int i, int down) {
          sums.MergeNeighbours(V);
          Sums all = sums.Lane(0, V);
          all.Merge(edges);
          all = MomentsOfWarp(all);
          if (threadIdx.x % kWarp != 0) return;
          PutEntry(down, i, all.mean, all.rest, all.m2);
          if (i == 0) EntryCount(down) = all.count;  // as many of every channel
        });
  }

  __device__ void SumGroups() const {
    const int keys = Keys() / part_.groups, count = w_.plan.down * keys;
    const int lane = threadIdx.x % kWarp;
    for (int g = threadIdx.x / kWarp; g < part_.groups; g += blockDim.x / kWarp) {
      Sums sums;
      for (int i = lane; i < count; i += kWarp) sums.Merge(Entry(i / keys, g * keys + i % keys));
      sums = MomentsOfWarp(sums);
      if (lane == 0) group_sums()[g] = sums;
    }
  }

  // Merges the parts of every group.
  __device__ void FinishGroups() const {
    const int lane = threadIdx.x % kWarp;
    const int parts = static_cast<int>(w_.plan.parts);
    for (int g = threadIdx.x / kWarp; g < part_.groups; g += blockDim.x / kWarp) {
      Sums sums;
      for (int i = lane; i < parts; i += kWarp) {
        sums.Merge(w_.launch == LaunchKind::kElements ? PartialSums(g)[i]
                   : parts == 1                       ? group_sums()[g]
                                                      : InBlock(group_sums(), i)[g]);
      }
      sums = MomentsOfWarp(sums);
      if (lane == 0) FinishGroup(g, sums);
    }
  }

  __device__ void FinishGroup(int g, const Sums& sums) const {
    const double mean = static_cast<double>(sums.mean) + static_cast<double>(sums.rest);
    const double rstd = w_.p.Rstd(sums.m2);
    const CT rounded = static_cast<CT>(mean);
    const CT rest = static_cast<CT>(static_cast<double>(sums.mean) - rounded + sums.rest);
    statistics()[g] = {rounded, rest, static_cast<CT>(rstd), 0};
    if (part_.index != 0) return;
    const int64_t at = Statistic(g);
    if (w_.t.mean != nullptr) w_.t.mean[at] = rounded;
    if (w_.t.rstd != nullptr) w_.t.rstd[at] = static_cast<CT>(rstd);
    if (w_.t.rest != nullptr) {
      CT* const of_group = w_.t.rest + at + part_.n * w_.p.groups;
      of_group[0] = rest;
      of_group[w_.p.groups] = 0;
    }
  }

  // --- elements ---

  // z = (x - mean) * scale + shift + side_input
  template <class K>
  struct Coefficients {
    K mean, scale, shift;
  };

  __device__ void CoefficientsOf(int channel, CT* mean, CT* scale, CT* shift) const {
    const Statistics<CT> s = statistics()[GroupOf(channel)];
    const int64_t c = part_.channel + channel;
    *mean = s.mean;
    *scale = ScaleOf(w_.p, w_.t.gamma, part_.n, c, s.rstd);
    *shift = ShiftOf(w_.p, w_.t.beta, part_.n, c, s.rest, *scale);
  }

  template <class K>
  __device__ __forceinline__ void NormalizeStroke(const Stroke& s, int64_t* held,
                                                  const Coefficients<K>& k) const {
    // The second launch reads backwards: L2 still has the end of what the first one read.
    const bool backwards = w_.launch == LaunchKind::kElements;
    ForEachBatch<kElementBatch, V>(
        s, backwards, [&](int64_t at, int64_t stride, int64_t i, int live, Lanes lanes) {
          CT z[kElementBatch][V], side[kElementBatch][V];
          if (w_.plan.held) {
            Load(HeldVector(InShared<T>(0), V, *held + i), int64_t{V} * blockDim.x, live,
                 {true, 0, V}, z);
          } else {
            Load(w_.t.x + at, stride, live, lanes, z);
          }
          if (w_.t.side_input != nullptr) Load(w_.t.side_input + at, stride, live, lanes, side);
#pragma unroll
          for (int u = 0; u < kElementBatch; ++u) {
#pragma unroll
            for (int l = 0; l < V; ++l) {
              z[u][l] = NormalizedAt(z[u][l] - k.mean[l], k.scale[l], k.shift[l]);
              if (w_.t.side_input != nullptr) z[u][l] += side[u][l];
            }
          }
          Activate(w_.p.activation, z);
          WithElements<CT>(w_.t.y_type, w_.t.y,
                           [&](auto* y) { Store(y + at, stride, live, lanes, z); });
        });
    *held += s.count;
  }

  __device__ void NormalizeElements() const {
    int64_t held = 0;
    if (w_.plan.by_columns) {
      Coefficients<PerLane<CT, V>> k;
      const int b = static_cast<int>(w_.p.b);
      ForEachStrokeOfColumns<V>(
          w_, part_,
          [&](int column) {
#pragma unroll
            for (int l = 0; l < V; ++l) {
              // Lanes past the end repeat the last column.
              const int j = min(column + l, part_.columns - 1);
              CoefficientsOf(b == 1 ? j : j / b, &k.mean.value[l], &k.scale.value[l],
                             &k.shift.value[l]);
            }
          },
          [&](const Stroke& s) { NormalizeStroke(s, &held, k); }, [](int, int) {});
    } else {
      Coefficients<Uniform<CT>> k;
      ForEachStrokeOfRuns<V>(
          w_, part_,
          [&](int i) { CoefficientsOf(i, &k.mean.value, &k.scale.value, &k.shift.value); },
          [&](const Stroke& s) { NormalizeStroke(s, &held, k); }, [](int, int) {});
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kCudaMaxThreads, CudaForwardBlocks(sizeof(T)))
    ForwardKernel(const __grid_constant__ ForwardArgs<T> args) {
  ForwardBlock<T>(args).Run();
}

template <typename CT>
struct FillArgs {
  CT* to;
  int64_t count;
  CT value;
};

template <typename CT>
__global__ void FillKernel(const __grid_constant__ FillArgs<CT> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < args.count) args.to[i] = args.value;
}

// The statistics of groups without elements.
template <typename CT>
std::string FillStatistics(const Normalization& p, CT* mean, CT* rstd, CT* rest, void* stream) {
  const int64_t count = p.n * p.groups;
  constexpr int64_t kSize = sizeof(CT);
  std::string error = FillWithZeros(mean, count * kSize, stream);
  if (error.empty()) error = FillWithZeros(rest, 2 * count * kSize, stream);
  if (!error.empty() || rstd == nullptr || count == 0) return error;
  constexpr int kThreads = 256;
  return Launch(FillKernel<CT>, {(count + kThreads - 1) / kThreads, kThreads}, stream,
                FillArgs<CT>{rstd, count, static_cast<CT>(p.Rstd(0))});
}

}  // namespace
}  // namespace cuda

template <typename T>
std::string LaunchNormalization(const CudaWork& work, const ErasedForwardTensors<T>& tensors,
                                void* workspace, void* stream) {
  const Normalization& p = work.p;
  if (p.empty()) return cuda::FillStatistics(p, tensors.mean, tensors.rstd, tensors.rest, stream);
  cuda::ForwardArgs<T> args = {};
  args.p = p;
  args.plan = work.plan;
  args.vectors = cuda::IsAligned(tensors.x, 16) && cuda::IsAligned(tensors.side_input, 16) &&
                 cuda::IsAligned(tensors.y, work.plan.vector * SizeOf(tensors.y_type));
  args.t = tensors;
  args.partial_sums = static_cast<ParamOf<T>*>(CudaScratch(p, work.plan, workspace).partial_sums);
  return cuda::LaunchPass(cuda::ForwardKernel<T>, args, stream);
}

#define TFGN_INSTANTIATE(T)                                                                        \
  template std::string LaunchNormalization(const CudaWork&, const ErasedForwardTensors<T>&, void*, \
                                           void*);
TFGN_FOR_EACH_DTYPE(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
