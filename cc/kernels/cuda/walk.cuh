// How the threads of a block walk over its part of a tensor (plan.h), in strokes of vectors.
#ifndef TFGN_KERNELS_CUDA_WALK_CUH_
#define TFGN_KERNELS_CUDA_WALK_CUH_

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels/cuda/plan.h"
#include "kernels/cuda/util.cuh"

namespace tfgn {
namespace cuda {

// A launch of the whole pass, or the first or the second of two.
enum class LaunchKind { kWhole, kSums, kElements };

// The arguments of every kernel of a pass. Each pass adds its tensors.
struct LaunchArgs {
  Normalization p;
  CudaPlan plan;
  LaunchKind launch;
  int64_t first_block;  // of the samples of the launch
  bool vectors;         // all pointers are aligned to vectors
};

// The part of a block. It is in shared memory to save registers.
struct Part {
  int64_t n, end_n;  // the current sample, the end of those of the block
  int64_t sample_block;
  int64_t channel, group;  // the first ones
  int64_t row_begin, row_end;
  int64_t index, chunk;           // of the part in its strip, of the rows
  int channels, groups, columns;  // columns: channels * B, by columns only
};

__device__ inline Part PartOfBlock(const LaunchArgs& w) {
  const CudaPlan& plan = w.plan;
  Part part;
  const int64_t strip_of_grid = blockIdx.x / plan.parts;
  const int64_t strip = strip_of_grid % plan.strips;
  part.index = blockIdx.x % plan.parts;
  part.sample_block = w.first_block + strip_of_grid / plan.strips;
  part.n = part.sample_block * plan.samples;
  part.end_n = min(part.n + plan.samples, w.p.n);
  part.chunk = part.index / plan.shares;
  const int64_t begin = strip * plan.strip_channels;
  const int64_t end = min(begin + plan.strip_channels, w.p.c);
  part.channel = begin + part.index % plan.shares * plan.share_channels;
  part.channels = static_cast<int>(min(plan.share_channels, end - part.channel));
  part.group = begin / plan.group_channels;
  part.groups = plan.shares > 1 ? 1 : static_cast<int>(part.channels / plan.group_channels);
  part.columns = plan.by_columns ? static_cast<int>(part.channels * w.p.b) : 0;
  part.row_begin = plan.rows * part.chunk / plan.chunks;
  part.row_end = plan.rows * (part.chunk + 1) / plan.chunks;
  return part;
}

static_assert(sizeof(Part) <= kCudaPartBytes);

// f() for every sample of a block. Sets *part.
template <class F>
__device__ __forceinline__ void ForEachSample(const LaunchArgs& w, Part* part, F&& f) {
  if (threadIdx.x == 0) *part = PartOfBlock(w);
  __syncthreads();
  for (int64_t left = part->end_n - part->n; left > 0; --left) {
    f();
    if (left == 1) break;
    __syncthreads();
    if (threadIdx.x == 0) ++part->n;
    __syncthreads();
  }
}

// The address at `offset` in shared memory.
template <typename P>
__device__ inline P* InShared(int offset) {
  return reinterpret_cast<P*>(SharedMemory() + offset);
}

// A block at work on its part; Args are LaunchArgs.
template <class Args>
class Block {
 protected:
  __device__ explicit Block(const Args& args) : w_(args), part_(*InShared<Part>(args.plan.part)) {}

  // Sums per row of threads.
  __device__ int Keys() const {
    return w_.plan.by_columns ? part_.columns / w_.plan.merged_lanes : part_.channels;
  }
  // The group of a channel, both counted from the first of the part.
  __device__ int GroupOf(int channel) const {
    return part_.groups == 1 ? 0 : channel / static_cast<int>(w_.plan.group_channels);
  }
  // The index of group g of the part in tensors [N, G].
  __device__ int64_t Statistic(int g) const { return part_.n * w_.p.groups + part_.group + g; }
  __device__ bool in_cluster() const {
    return w_.launch == LaunchKind::kWhole && w_.plan.parts > 1;
  }

  const Args& w_;
  Part& part_;
};

// Vectors that a thread visits one after another, `stride` elements apart. Only the first `lanes`
// lanes of each exist, and elements outside [low, high) belong to another thread.
struct Stroke {
  int64_t offset, stride, count;
  int64_t low, high;
  int lanes;
  bool aligned;
};

// f(at, stride, k, live, lanes) for batches of `live` <= U vectors. The first is vector k of the
// stroke, at element `at`; each of the others is `stride` further.
template <int U, int V, class F>
__device__ __forceinline__ void ForEachBatch(const Stroke& s, bool backwards, F&& f) {
  const int64_t stride = backwards ? -s.stride : s.stride;
  int64_t at = backwards ? s.offset + (s.count - 1) * s.stride : s.offset;
  for (int64_t k = 0; k < s.count;) {
    int live = static_cast<int>(min(static_cast<int64_t>(U), s.count - k));
    const int64_t end = at + (live - 1) * stride;
    Lanes lanes = {s.aligned && s.lanes == V, 0, s.lanes};
    if (min(at, end) < s.low || max(at, end) + V > s.high) {
      live = 1;
      lanes.first = static_cast<int>(max(s.low - at, int64_t{0}));
      lanes.last = static_cast<int>(min(s.high - at, static_cast<int64_t>(V)));
      lanes.whole = s.aligned && lanes.first == 0 && lanes.last == V;
    }
    f(at, stride, k, live, lanes);
    k += live;
    at += live * stride;
  }
}

// By columns: the vector of columns from `column` of the part on.
template <int V>
__device__ inline Stroke StrokeOfColumns(const LaunchArgs& w, const Part& part, int down,
                                         int column) {
  const int64_t row = w.p.c * w.p.b, first = part.row_begin + down;
  Stroke s;
  s.offset = (w.p.a * part.n + first) * row + part.channel * w.p.b + column;
  s.stride = w.plan.down * row;
  s.count = first < part.row_end ? (part.row_end - first + w.plan.down - 1) / w.plan.down : 0;
  s.low = 0;
  s.high = INT64_MAX;
  s.lanes = min(V, part.columns - column);
  s.aligned = w.vectors && w.plan.aligned;
  return s;
}

// By runs: what a lane reads of a row of channel part.channel + i.
template <int V>
__device__ inline Stroke StrokeOfRun(const LaunchArgs& w, const Part& part, int lane, int i,
                                     int64_t row) {
  const int64_t a = row / w.plan.pieces_of_run, piece = row % w.plan.pieces_of_run;
  const int64_t begin = ((part.n * w.p.a + a) * w.p.c + part.channel + i) * w.p.b;
  Stroke s;
  s.low = begin + piece * w.plan.piece;
  s.high = begin + min(w.p.b, (piece + 1) * w.plan.piece);
  const int64_t first = s.low / V * V, vectors = (s.high - first + V - 1) / V;
  s.offset = first + lane * V;
  s.stride = kWarp * V;
  s.count = lane < vectors ? (vectors - lane + kWarp - 1) / kWarp : 0;
  s.lanes = V;
  s.aligned = w.vectors;
  return s;
}

// By runs: the place of a thread's warp, and its lane.
struct WarpPlace {
  int across, down, lane;
};

__device__ inline WarpPlace PlaceOfThread(const CudaPlan& plan) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  return {warp / plan.down, warp % plan.down, static_cast<int>(threadIdx.x) % kWarp};
}

// f(stroke) for each vector of columns of a thread, or, by runs, for each row of each channel of
// its warp. Calls begin(i) before and end(i, down) after the strokes of column, or channel, i.
template <int V, class Begin, class F, class End>
__device__ __forceinline__ void ForEachStrokeOfColumns(const LaunchArgs& w, const Part& part,
                                                       Begin&& begin, F&& f, End&& end) {
  const int across = static_cast<int>(threadIdx.x) % w.plan.across;
  const int down = static_cast<int>(threadIdx.x) / w.plan.across;
  if (down >= w.plan.down) return;
  for (int column = across * V; column < part.columns; column += w.plan.across * V) {
    begin(column);
    const Stroke s = StrokeOfColumns<V>(w, part, down, column);
    f(s);
    end(column, down);
  }
}

template <int V, class Begin, class F, class End>
__device__ __forceinline__ void ForEachStrokeOfRuns(const LaunchArgs& w, const Part& part,
                                                    Begin&& begin, F&& f, End&& end) {
  const WarpPlace self = PlaceOfThread(w.plan);
  for (int i = self.across; i < part.channels; i += w.plan.across) {
    begin(i);
    for (int64_t row = part.row_begin + self.down; row < part.row_end; row += w.plan.down) {
      f(StrokeOfRun<V>(w, part, self.lane, i, row));
    }
    end(i, self.down);
  }
}

// The address at which a thread holds its k-th vector of `vector` elements.
template <typename T>
__device__ inline T* HeldVector(T* held, int vector, int64_t k) {
  return held + (k * blockDim.x + threadIdx.x) * vector;
}

// Coefficients of the lanes of a vector: one for each, or one for all.
template <typename CT, int V>
struct PerLane {
  CT value[V];
  __device__ CT operator[](int l) const { return value[l]; }
};
template <typename CT>
struct Uniform {
  CT value;
  __device__ CT operator[](int) const { return value; }
};

template <typename CT>
__device__ inline CT AffineAt(Affine affine, const CT* values, const Normalization& p, int64_t n,
                              int64_t c, CT absent) {
  const CT* of_sample = AffineOf(affine, values, n, p.c);
  return of_sample == nullptr ? absent : of_sample[c];
}

// The scale and the shift of z = (x - mean) * scale + shift + side_input for channel c of sample n.
// `rest`: what mean lost when it was rounded.
template <typename CT>
__device__ inline CT ScaleOf(const Normalization& p, const CT* gamma, int64_t n, int64_t c,
                             CT rstd) {
  return rstd * static_cast<CT>(p.scale) * AffineAt(p.gamma, gamma, p, n, c, CT(1));
}
template <typename CT>
__device__ inline CT ShiftOf(const Normalization& p, const CT* beta, int64_t n, int64_t c, CT rest,
                             CT scale) {
  return MulAdd(-rest, scale, AffineAt(p.beta, beta, p, n, c, CT(0)));
}

// z without side_input. Both passes take it from here, so that its bits are the same.
template <typename CT>
__device__ inline CT NormalizedAt(CT centered, CT scale, CT shift) {
  return MulAdd(centered, scale, shift);
}

// Queues the launches of a pass.
template <typename Args>
std::string LaunchPass(void (*kernel)(Args), Args args, void* stream) {
  const CudaPlan& plan = args.plan;
  const int64_t at_once = std::max<int64_t>(1, INT32_MAX / plan.blocks_per_sample());
  for (int64_t i = 0; i < plan.sample_blocks; i += at_once) {
    const int64_t blocks = std::min(at_once, plan.sample_blocks - i) * plan.blocks_per_sample();
    Grid grid = {blocks, plan.threads, 1, plan.shared_bytes};
    if (plan.one_launch) grid.cluster = static_cast<int>(plan.parts);
    args.first_block = i;
    for (LaunchKind launch : {LaunchKind::kWhole, LaunchKind::kSums, LaunchKind::kElements}) {
      if ((launch == LaunchKind::kWhole) != plan.one_launch) continue;
      args.launch = launch;
      if (std::string error = Launch(kernel, grid, stream, args); !error.empty()) return error;
    }
  }
  return "";
}

// Whether vectors of this size can be accessed at p: up to 16 bytes at a time.
inline bool IsAligned(const void* p, int64_t vector_bytes) {
  return reinterpret_cast<uintptr_t>(p) %
             static_cast<uintptr_t>(std::min<int64_t>(vector_bytes, 16)) ==
         0;
}

inline std::string FillWithZeros(void* p, int64_t bytes, void* stream) {
  if (p == nullptr || bytes == 0) return "";
  return ToError("filling with zeros", cudaMemsetAsync(p, 0, static_cast<size_t>(bytes),
                                                       static_cast<cudaStream_t>(stream)));
}

}  // namespace cuda
}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_WALK_CUH_
