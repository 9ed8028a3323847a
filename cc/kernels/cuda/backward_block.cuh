// The work of a block in the backward pass of a Normalization: sums of gradients, results per
// group, elements.
#ifndef TFGN_KERNELS_CUDA_BACKWARD_BLOCK_CUH_
#define TFGN_KERNELS_CUDA_BACKWARD_BLOCK_CUH_

#include "kernels/cuda/gradient_sums.cuh"
#include "kernels/cuda/pass.h"
#include "kernels/cuda/walk.cuh"

namespace tfgn {
namespace cuda {

template <typename T>
struct BackwardArgs : LaunchArgs {
  ErasedBackwardTensors<T> t;
  bool direct_affine;        // AffineGradientsAreOfGroups
  ParamOf<T>* partial_sums;  // [N, G, parts] of GroupSums
  ParamOf<T>* affine_sums;   // [sample_blocks, chunks, (dz, dz * xhat), C], or null
};

template <typename T>
class BackwardBlock : Block<BackwardArgs<T>> {
  using Base = Block<BackwardArgs<T>>;
  using Base::part_, Base::w_, Base::GroupOf, Base::Keys, Base::Statistic, Base::in_cluster;
  using CT = ParamOf<T>;
  static constexpr int V = 16 / sizeof(T);
  // Vectors of x and of dy that a thread reads at once: as many as registers hold.
  static constexpr int kBatch = V == 8 ? 1 : 2;
  using Sums = GroupSums<CT>;
  static_assert(sizeof(Sums) == kCudaGroupNumbers * sizeof(CT));

 public:
  __device__ explicit BackwardBlock(const BackwardArgs<T>& args) : Base(args) {}

  __device__ void Run() {
    bool first = true;
    ForEachSample(w_, &part_, [&] {
      if (first) ClearAffine();
      first = false;
      RunSample();
    });
    PutAffine();
  }

 private:
  __device__ void RunSample() {
    if (w_.launch != LaunchKind::kElements) {
      SumElements();
      __syncthreads();
      SumOverChannels();
      __syncthreads();
      SumOverGroups();
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
    if (w_.t.dx != nullptr || w_.t.dside != nullptr || w_.t.y != nullptr) WriteElements();
  }

  // What dz and dx are computed with: z = (x - mean) * scale + shift + side_input and
  // dx = dz * scale + (x - mean) * slope + offset.
  template <class K>
  struct Coefficients {
    K mean, scale, shift, slope, offset;
  };
  using LaneCoefficients = Coefficients<PerLane<CT, V>>;
  using ChannelCoefficients = Coefficients<Uniform<CT>>;

  __device__ Sums* group_sums() const { return InShared<Sums>(w_.plan.group_sums); }
  // dz: slope, dz_centered: offset.
  __device__ Sums* results() const { return InShared<Sums>(w_.plan.group_results); }
  __device__ ChannelSums<CT>* channel_sums() const {
    return InShared<ChannelSums<CT>>(w_.plan.channel_sums);
  }
  __device__ ChannelSums<CT>* entries() const { return InShared<ChannelSums<CT>>(w_.plan.entries); }
  __device__ Sums* PartialSums(int g) const {
    return reinterpret_cast<Sums*>(w_.partial_sums) + Statistic(g) * w_.plan.parts;
  }
  __device__ CT WeightOf(int channel) const {
    return static_cast<CT>(w_.p.scale) *
           AffineAt(w_.p.gamma, w_.t.gamma, w_.p, part_.n, part_.channel + channel, CT(1));
  }

  __device__ void SetCoefficients(int channel, CT* mean, CT* scale, CT* shift) const {
    const int64_t at = Statistic(GroupOf(channel)), c = part_.channel + channel;
    const CT rest = w_.t.rest == nullptr ? CT(0) : w_.t.rest[at + part_.n * w_.p.groups];
    *mean = w_.t.mean[at];
    *scale = ScaleOf(w_.p, w_.t.gamma, part_.n, c, w_.t.rstd[at]);
    *shift = ShiftOf(w_.p, w_.t.beta, part_.n, c, rest, *scale);
  }

  // The coefficients of the lanes from `column` on. Lanes past the end repeat the last column.
  __device__ void SetColumns(int column, bool finished, LaneCoefficients* k) const {
    const int b = static_cast<int>(w_.p.b);
#pragma unroll
    for (int l = 0; l < V; ++l) {
      const int j = min(column + l, part_.columns - 1), channel = b == 1 ? j : j / b;
      SetCoefficients(channel, &k->mean.value[l], &k->scale.value[l], &k->shift.value[l]);
      if (!finished) continue;
      k->slope.value[l] = results()[GroupOf(channel)].dz;
      k->offset.value[l] = results()[GroupOf(channel)].dz_centered;
    }
  }
  __device__ void SetChannel(int channel, bool finished, ChannelCoefficients* k) const {
    SetCoefficients(channel, &k->mean.value, &k->scale.value, &k->shift.value);
    if (!finished) return;
    k->slope.value = results()[GroupOf(channel)].dz;
    k->offset.value = results()[GroupOf(channel)].dz_centered;
  }

  // f(at, stride, live, lanes, centered, dz) for the batches of a stroke, with centered = x - mean
  // and dz = dy * activation'(z), both 0 outside the lanes. The first walk holds what it reads, the
  // second one reads what is held.
  template <bool kFirst, class K, class F>
  __device__ __forceinline__ void WalkStroke(const Stroke& s, int64_t* held,
                                             const Coefficients<K>& k, F&& f) const {
    // The second launch reads backwards: L2 still has the end of what the first one read.
    ForEachBatch<kBatch, V>(
        s, w_.launch == LaunchKind::kElements,
        [&](int64_t at, int64_t stride, int64_t i, int live, Lanes lanes) {
          CT x[kBatch][V], dz[kBatch][V];
          const int64_t slot = *held + i, slots = int64_t{V} * blockDim.x;
          const Lanes all = {true, 0, V};
          if (!kFirst && w_.plan.held) {
            Load(HeldVector(InShared<T>(0), V, slot), slots, live, all, x);
            WithElements<CT>(w_.t.dy_type, InShared<void>(w_.plan.held_gradients), [&](auto* dy) {
              Load(HeldVector(dy, V, slot), slots, live, all, dz);
            });
          } else {
            Load(w_.t.x + at, stride, live, lanes, x);
            WithElements<CT>(w_.t.dy_type, w_.t.dy,
                             [&](const auto* dy) { Load(dy + at, stride, live, lanes, dz); });
          }
          if (kFirst && w_.plan.held) {
            Store(HeldVector(InShared<T>(0), V, slot), slots, live, all, x);
            WithElements<CT>(w_.t.dy_type, InShared<void>(w_.plan.held_gradients), [&](auto* dy) {
              Store(HeldVector(dy, V, slot), slots, live, all, dz);
            });
          }
          Differentiate<!kFirst>(at, stride, live, lanes, k, x, dz);
          f(at, stride, live, lanes, x, dz);
        });
    *held += s.count;
  }

  // x to x - mean, dy to dz. Writes y if this is the walk that writes.
  template <bool kWrites, class K>
  __device__ __forceinline__ void Differentiate(int64_t at, int64_t stride, int live, Lanes lanes,
                                                const Coefficients<K>& k, CT (&x)[kBatch][V],
                                                CT (&dy)[kBatch][V]) const {
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
#pragma unroll
      for (int l = 0; l < V; ++l) x[u][l] -= k.mean[l];
    }
    const bool with_y = kWrites && w_.t.y != nullptr;
    if (w_.p.activation != Activation::kLinear || with_y) {
      CT z[kBatch][V];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
#pragma unroll
        for (int l = 0; l < V; ++l) z[u][l] = NormalizedAt(x[u][l], k.scale[l], k.shift[l]);
      }
      if (w_.t.side_input != nullptr) {
        CT side[kBatch][V];
        Load(w_.t.side_input + at, stride, live, lanes, side);
        ForEachElement(z, side, [](CT a, CT b) { return a + b; });
      }
      ActivateBackward(w_.p.activation, z, dy);
      if (with_y) {
        WithElements<CT>(w_.t.dy_type, w_.t.y,
                         [&](auto* y) { Store(y + at, stride, live, lanes, z); });
      }
    }
    if (lanes.whole && live == kBatch) return;
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
#pragma unroll
      for (int l = 0; l < V; ++l) {
        if (u < live && l >= lanes.first && l < lanes.last) continue;
        x[u][l] = dy[u][l] = 0;
      }
    }
  }

  // --- sums ---

  __device__ void SumElements() const {
    LaneSums<CT, V> sums;
    int64_t held = 0;
    const auto add = [&](int64_t, int64_t, int, Lanes, const auto& centered, const auto& dz) {
      sums.Add(centered, dz);
    };
    if (w_.plan.by_columns) {
      LaneCoefficients k;
      const int merged = w_.plan.merged_lanes;
      ForEachStrokeOfColumns<V>(
          w_, part_,
          [&](int column) {
            SetColumns(column, false, &k);
            sums = {};
          },
          [&](const Stroke& s) { WalkStroke<true>(s, &held, k, add); },
          [&](int column, int down) {
            sums.MergeNeighbours(merged);
#pragma unroll
            for (int l = 0; l < V; ++l) {
              if (l % merged != 0 || column + l >= part_.columns) continue;
              entries()[down * Keys() + (column + l) / merged] = {sums.dz[l], sums.dz_centered[l]};
            }
          });
    } else {
      ChannelCoefficients k;
      ForEachStrokeOfRuns<V>(
          w_, part_,
          [&](int i) {
            SetChannel(i, false, &k);
            sums = {};
          },
          [&](const Stroke& s) { WalkStroke<true>(s, &held, k, add); },
          [&](int i, int down) {
            sums.MergeNeighbours(V);
            const CT dz = SumOfWarp(sums.dz[0]), dz_centered = SumOfWarp(sums.dz_centered[0]);
            if (threadIdx.x % kWarp == 0) entries()[down * Keys() + i] = {dz, dz_centered};
          });
    }
  }

  __device__ void SumOverChannels() const {
    constexpr int kFew = 8;  // a choice: a thread adds up so few sums faster than a warp does
    const int keys = Keys() / part_.channels, count = w_.plan.down * keys;
    const int lane = threadIdx.x % kWarp;
    if (count <= kFew) {
      for (int c = threadIdx.x; c < part_.channels; c += blockDim.x) {
        FinishChannel(c, SumOfEntries(c, keys, 0, 1));
      }
      return;
    }
    for (int c = threadIdx.x / kWarp; c < part_.channels; c += blockDim.x / kWarp) {
      ChannelSums<CT> sums = SumOfEntries(c, keys, lane, kWarp);
      sums.dz = SumOfWarp(sums.dz);
      sums.dz_centered = SumOfWarp(sums.dz_centered);
      if (lane == 0) FinishChannel(c, sums);
    }
  }

  // The sum of entries begin, begin + step, ... of channel c.
  __device__ ChannelSums<CT> SumOfEntries(int c, int keys, int begin, int step) const {
    ChannelSums<CT> sums = {0, 0};
    for (int i = begin; i < w_.plan.down * keys; i += step) {
      const ChannelSums<CT> entry = entries()[i / keys * Keys() + c * keys + i % keys];
      sums.dz += entry.dz;
      sums.dz_centered += entry.dz_centered;
    }
    return sums;
  }

  __device__ void FinishChannel(int c, const ChannelSums<CT>& sums) const {
    channel_sums()[c] = sums;
    affine_sums()[c].dz += sums.dz;
    affine_sums()[c].dz_centered +=
        sums.dz_centered * w_.t.rstd[Statistic(GroupOf(c))] * static_cast<CT>(w_.p.scale);
  }

  // Sums over the samples of the block, added up by the threads that finish the channels.
  __device__ ChannelSums<CT>* affine_sums() const {
    return InShared<ChannelSums<CT>>(w_.plan.affine_sums);
  }
  __device__ void ClearAffine() const {
    if (w_.launch == LaunchKind::kElements) return;
    for (int c = threadIdx.x; c < part_.channels; c += blockDim.x) affine_sums()[c] = {0, 0};
  }
  __device__ void PutAffine() const {
    if (w_.affine_sums == nullptr || w_.launch == LaunchKind::kElements) return;
    CT* to = w_.affine_sums + (part_.sample_block * w_.plan.chunks + part_.chunk) * 2 * w_.p.c +
             part_.channel;
    for (int c = threadIdx.x; c < part_.channels; c += blockDim.x) {
      to[c] = affine_sums()[c].dz;
      to[w_.p.c + c] = affine_sums()[c].dz_centered;
    }
  }

  __device__ void SumOverGroups() const {
    const int channels = part_.channels / part_.groups, lane = threadIdx.x % kWarp;
    for (int g = threadIdx.x / kWarp; g < part_.groups; g += blockDim.x / kWarp) {
      Sums sums = {0, 0, 0, 0};
      for (int i = lane; i < channels; i += kWarp) {
        const ChannelSums<CT> of_channel = channel_sums()[g * channels + i];
        const CT weight = WeightOf(g * channels + i);
        sums.dz += weight * of_channel.dz;
        sums.dz_centered += weight * of_channel.dz_centered;
        sums.last_dz = of_channel.dz;
        sums.last_dz_centered = of_channel.dz_centered;
      }
      sums.dz = SumOfWarp(sums.dz);
      sums.dz_centered = SumOfWarp(sums.dz_centered);
      if (lane == 0) group_sums()[g] = sums;
    }
  }

  // Adds up the parts of every group.
  __device__ void FinishGroups() const {
    const int lane = threadIdx.x % kWarp;
    const int parts = static_cast<int>(w_.plan.parts);
    for (int g = threadIdx.x / kWarp; g < part_.groups; g += blockDim.x / kWarp) {
      Sums sums = {0, 0, 0, 0};
      for (int i = lane; i < parts; i += kWarp) {
        const Sums part = w_.launch == LaunchKind::kElements ? PartialSums(g)[i]
                          : parts == 1                       ? group_sums()[g]
                                                             : InBlock(group_sums(), i)[g];
        sums.dz += part.dz;
        sums.dz_centered += part.dz_centered;
        sums.last_dz += part.last_dz;
        sums.last_dz_centered += part.last_dz_centered;
      }
      sums = {SumOfWarp(sums.dz), SumOfWarp(sums.dz_centered), SumOfWarp(sums.last_dz),
              SumOfWarp(sums.last_dz_centered)};
      if (lane == 0) FinishGroup(g, sums);
    }
  }

  __device__ void FinishGroup(int g, const Sums& sums) const {
    const double size = static_cast<double>(w_.p.group_size());
    const double rstd = w_.t.rstd[Statistic(g)];
    const double slope = sums.dz_centered * w_.p.RstdSlope(rstd);
    const double offset = -rstd * sums.dz / size;
    results()[g] = {static_cast<CT>(slope), static_cast<CT>(offset), 0, 0};
    if (!w_.direct_affine || part_.index != 0) return;
    const int64_t at = Statistic(g);  // a channel, too
    if (w_.t.dbeta != nullptr) w_.t.dbeta[at] = sums.last_dz;
    if (w_.t.dgamma != nullptr) {
      w_.t.dgamma[at] = static_cast<CT>(sums.last_dz_centered * rstd * w_.p.scale);
    }
  }

  // --- elements ---

  template <class K>
  __device__ __forceinline__ void WriteStroke(const Stroke& s, int64_t* held,
                                              const Coefficients<K>& k) const {
    WalkStroke<false>(
        s, held, k,
        [&](int64_t at, int64_t stride, int live, Lanes lanes, auto& dx, const auto& dz) {
          if (w_.t.dside != nullptr) {
            Store(w_.t.dside + at, stride, live, lanes, dz);
          }
          if (w_.t.dx == nullptr) return;
#pragma unroll
          for (int u = 0; u < kBatch; ++u) {
#pragma unroll
            for (int l = 0; l < V; ++l) {
              dx[u][l] = dz[u][l] * k.scale[l] + (dx[u][l] * k.slope[l] + k.offset[l]);
            }
          }
          Store(w_.t.dx + at, stride, live, lanes, dx);
        });
  }

  __device__ void WriteElements() const {
    int64_t held = 0;
    if (w_.plan.by_columns) {
      LaneCoefficients k;
      ForEachStrokeOfColumns<V>(
          w_, part_, [&](int column) { SetColumns(column, true, &k); },
          [&](const Stroke& s) { WriteStroke(s, &held, k); }, [](int, int) {});
    } else {
      ChannelCoefficients k;
      ForEachStrokeOfRuns<V>(
          w_, part_, [&](int i) { SetChannel(i, true, &k); },
          [&](const Stroke& s) { WriteStroke(s, &held, k); }, [](int, int) {});
    }
  }
};

}  // namespace cuda
}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_BACKWARD_BLOCK_CUH_
