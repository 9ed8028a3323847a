// How a Normalization is cut for the threads of a CPU, decided from the shape alone. Internal to
// the kernels.
//
// By columns a sample is a matrix of A rows and C * B columns, by runs A times C runs of B
// neighbours:
//
//             C * B columns
//          strip 0    strip 1
//         +---------+---------+
//         |  part   |  part   |   chunk 0              |--- piece ---|--- piece ---|- piece -|
//   rows  +---------+---------+                        |------- a run: B neighbours --------|
//         |  part   |  part   |   chunk 1
//         +---------+---------+
//
//   strip    columns: whole groups. One may be read in several tiles, whose sums fit in L1
//   chunk    rows of a strip, summed on their own
//   part     a chunk of a strip, or a piece of a run: what a thread takes at a time
//   run      the neighbours of a channel, or of a group
//   piece    a division of a run, summed on its own
//   unit     what gives one partial sum per group or channel: a chunk, or a piece in one of A
//   stage    work on parts, or on groups, that do not need one another's results (stages.h)
#ifndef TFGN_KERNELS_CPU_PLAN_H_
#define TFGN_KERNELS_CPU_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/normalize.h"
#include "kernels/scratch.h"

namespace tfgn {

// Count, mean and sum of squared deviations from it.
struct Moments {
  double count = 0, mean = 0, m2 = 0;

  // Chan, Golub & LeVeque 1979.
  void Merge(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count;
    const double delta = other.mean - mean;
    mean += delta * (other.count / total);
    m2 += other.m2 + delta * delta * (count * (other.count / total));
    count = total;
  }
};

// A tile of columns: `width` neighbours from column `begin` of a matrix on.
struct Tile {
  int64_t begin, width;
};

// How a tensor is cut into units that are summed each on its own and then merged in order. Depends
// on the shape alone, so neither the number of threads nor the schedule changes a result.
struct CpuPlan {
  // Columns are processed in tiles whose sums fit in L1: 1024 floats are 4 KiB a table.
  static constexpr int64_t kTile = 1024;
  // A sum takes at most this many floats before it goes on in double.
  static constexpr int64_t kFloatRows = 64;
  static constexpr int64_t kMaxPiece = 16384;
  // The shift of a unit is the mean of one kShiftShare-th of it. However unlike the rest that part
  // is, the cancellation then costs at most a factor kShiftShare in the rounding of the variance.
  // By columns it is the mean of kShiftRows at least: among thousands of columns, the first row of
  // some lies three deviations off, and ten times the rounding is too much for a small sum.
  static constexpr int64_t kShiftShare = 16;
  static constexpr int64_t kShiftRows = 8;

  // Of an empty Normalization, which has no work, nothing but p is set.
  explicit CpuPlan(const Normalization& normalization);

  Normalization p;
  // Empty, or the sizes of a tensor that is transposed on its way, as StandardizeWeightsShape has
  // them: p is of the transposed copy.
  std::vector<int64_t> runs;

  // By columns: a sample is a matrix of A rows of C * B columns, summed down its columns. Narrow
  // rows are folded: `fold` of them make one. Otherwise by runs: B neighbours (or those of a whole
  // group) are summed across the lanes of a vector.
  bool by_columns = false;
  // The moments of groups: by runs also where every group is one (A = 1).
  bool moments_by_columns = false;

  // By columns. A unit is a chunk of rows.
  int64_t fold = 1;  // rows of the tensor per row of the matrix
  int64_t cols = 0;  // fold * C * B
  int64_t rows = 0;  // whole rows of a sample
  int64_t tail = 0;  // columns of one more, partial row
  int64_t chunk_rows = 1;
  int64_t chunks = 1;
  int64_t strip_cols = 0;  // of all strips but the last
  int64_t strips = 1;      // per row

  // Rows [begin, end) of a chunk, and the width of the partial row that ends it (or 0).
  int64_t ChunkBegin(int64_t chunk) const { return chunk * chunk_rows; }
  int64_t ChunkEnd(int64_t chunk) const { return std::min(rows, (chunk + 1) * chunk_rows); }
  int64_t ChunkTail(int64_t chunk) const { return chunk == chunks - 1 ? tail : 0; }

  // f(chunk, Tile) for the tiles of parts [begin, end) of a sample.
  template <class F>
  void ForEachTile(int64_t begin, int64_t end, F&& f) const {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t strip = part % strips, strip_end = std::min(cols, (strip + 1) * strip_cols);
      for (int64_t j = strip * strip_cols; j < strip_end; j += kTile) {
        f(part / strips, Tile{j, std::min(kTile, strip_end - j)});
      }
    }
  }

  // By runs: a run of `length` elements falls into pieces of at most kMaxPiece.
  static int64_t Pieces(int64_t length) { return (length + kMaxPiece - 1) / kMaxPiece; }
  static int64_t PieceLength(int64_t length, int64_t piece) {
    return std::min(length - piece * kMaxPiece, kMaxPiece);
  }

  // f(offset, length, i, unit) for pieces [begin, end) of the runs of a sample: of A times `count`
  // runs of `length` neighbours, where run i of each A belongs to group, or channel, i.
  template <class F>
  static void ForEachPiece(int64_t begin, int64_t end, int64_t count, int64_t length, F&& f) {
    const int64_t pieces = Pieces(length);
    int64_t piece = begin % pieces, i = begin / pieces % count, a = begin / pieces / count;
    for (int64_t item = begin; item < end; ++item) {
      f((a * count + i) * length + piece * kMaxPiece, PieceLength(length, piece), i,
        a * pieces + piece);
      if (++piece < pieces) continue;
      piece = 0;
      if (++i < count) continue;
      i = 0;
      ++a;
    }
  }

  // Units per sample that give partial results for each group (forward), each channel (backward).
  int64_t group_units = 1, channel_units = 1;

  // Columns of a table that holds a number per channel: by columns one for each of the matrix.
  int64_t table_width = 0;
  int64_t columns_per_channel = 1;
};

// Tables of coefficients, a row of CT each, padded so that the vector that begins in the last
// column can be read.
template <typename CT>
struct Tables {
  static constexpr int64_t kVector = 64 / sizeof(CT);

  Tables(const CpuPlan& plan, int64_t samples, int64_t per_sample, Scratch& scratch)
      : stride((plan.table_width + 2 * kVector - 1) / kVector * kVector),
        per_sample(per_sample),
        memory(scratch.Take<CT>(samples * per_sample * stride)) {}

  CT* Row(int64_t n, int64_t i) const { return memory + (n * per_sample + i) * stride; }

  int64_t stride, per_sample;
  CT* memory;
};

// What a pass keeps in scratch memory. Without memory it adds up the bytes.
template <class Tensors>
struct PassScratch;

template <typename T, typename Tout>
struct PassScratch<ForwardTensors<T, Tout>> {
  PassScratch(const CpuPlan& plan, Scratch scratch)
      : partial(scratch.Take<double>(plan.p.n * plan.group_units * 2 * plan.p.groups)),
        tables(plan, plan.p.n, 3, scratch),
        bytes(scratch.used()) {}

  double* partial;            // [N, units, (mean, m2), G]
  Tables<ParamOf<T>> tables;  // mean, scale, shift
  int64_t bytes;
};

template <typename T, typename Tout>
struct PassScratch<BackwardTensors<T, Tout>> {
  PassScratch(const CpuPlan& plan, Scratch scratch)
      : partial(scratch.Take<double>(plan.p.n * plan.channel_units * 2 * plan.p.c)),
        channels(scratch.Take<double>(plan.p.n * 2 * plan.p.c)),
        tables(plan, plan.p.n, 5, scratch),
        bytes(scratch.used()) {}

  double* partial;            // [N, units, (sum dz, sum dz * (x - mean)), C]
  double* channels;           // [N, (dbeta, dgamma), C]
  Tables<ParamOf<T>> tables;  // mean, scale, beta, slope, offset
  int64_t bytes;
};

}  // namespace tfgn

#endif  // TFGN_KERNELS_CPU_PLAN_H_
