// How a Normalization is cut for the threads of a CPU. Depends on the shape alone. Internal to the
// kernels.
//
// By columns, a sample is a matrix of A rows and C * B columns. By runs, it is A times C runs of B
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
//   strip    columns of whole groups
//   tile     columns of a strip whose sums fit in L1
//   chunk    rows of a strip, summed separately
//   part     a chunk of a strip
//   run      the B neighbours of a channel, or the C / G * B of a group
//   piece    a division of a run, summed separately
//   unit     what yields one partial sum per group or channel: a chunk, or a piece in one of A
//   stage    work on parts, pieces or groups that are independent of each other (stages.h)
//   wave     samples that go through all stages before the next ones do (stages.h)
//   kernel   a pass compiled for one instruction set (pass.h)
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

// The units of a tensor are summed separately and then merged in order. They depend on the shape
// alone, so neither the number of threads nor the schedule changes a result.
struct CpuPlan {
  // Columns of a tile. Two sums of each in double, two in float: 24 KiB of the 32 of an L1.
  static constexpr int64_t kTile = 1024;
  // A sum adds up at most this many floats before it continues in double. A choice between the
  // rounding of float and the cost of the conversion.
  static constexpr int64_t kFloatRows = 64;
  // A piece of a run, 64 KiB of floats, is the work of one task (stages.h).
  static constexpr int64_t kMaxPiece = 16384;
  // The shift of a unit is the mean of one kShiftShare-th of its elements. Even if these differ
  // from the rest, cancellation then increases the rounding of the variance by at most a factor of
  // kShiftShare. By columns, the shift is the mean of at least kShiftRows rows: in a single row,
  // some of thousands of columns are three deviations off, which is ten times the rounding.
  static constexpr int64_t kShiftShare = 16;
  static constexpr int64_t kShiftRows = 8;

  // For an empty Normalization, only p is set.
  explicit CpuPlan(const Normalization& normalization);

  Normalization p;
  // Empty, or the sizes of a tensor that is transposed first, as in StandardizeWeightsShape. Then p
  // describes the transposed copy.
  std::vector<int64_t> runs;

  // By columns, sums go down the columns of the matrix; narrow rows are folded, `fold` of them to
  // one. By runs, they go across the lanes of a vector.
  bool by_columns = false;
  // False also if every group is one run (A = 1).
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

  // By runs, a run of `length` elements is cut into pieces of at most kMaxPiece.
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

  // Columns of a table with a number per channel. By columns, the table has a column for each of
  // the matrix.
  int64_t table_width = 0;
  int64_t columns_per_channel = 1;
};

// Tables of coefficients, a row of CT each. Rows are padded so that a vector can be read from every
// column.
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

// What a pass keeps in scratch memory; `bytes` is valid also for a Scratch without memory.
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
  Tables<ParamOf<T>> tables;  // mean, scale, shift, slope, offset
  int64_t bytes;
};

}  // namespace tfgn

#endif  // TFGN_KERNELS_CPU_PLAN_H_
