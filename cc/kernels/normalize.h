// What GroupNorm and StandardizeWeights have in common: a tensor [N, A, C, B] whose G groups of
// C / G channels are each brought to mean 0 and variance 1, then scaled and shifted per channel.
// Internal to the kernels.
#ifndef TFGN_KERNELS_NORMALIZE_H_
#define TFGN_KERNELS_NORMALIZE_H_

#include <algorithm>
#include <cstdint>

#include "kernels/group_norm.h"
#include "kernels/standardize_weights.h"

namespace tfgn {

struct Normalization {
  int64_t n, a, c, b, groups;
  Affine gamma = Affine::kAbsent, beta = Affine::kAbsent;
  double epsilon = 0;
  EpsilonMode epsilon_mode = EpsilonMode::kAddToVariance;
  int64_t ddof = 0;
  double scale = 1;
  Activation activation = Activation::kLinear;

  int64_t channels_per_group() const { return c / groups; }
  int64_t group_size() const { return a * channels_per_group() * b; }
  int64_t affine_size(Affine affine) const {
    return affine == Affine::kAbsent ? 0 : affine == Affine::kPerSample ? n * c : c;
  }
  bool empty() const { return n == 0 || a == 0 || c == 0 || b == 0; }

  // m2: sum of squared deviations from the mean over a group.
  double Rstd(double m2) const;
  // (d rstd / d var) * 2 / (group_size - ddof), from the saved rstd.
  double RstdSlope(double rstd) const;
};

// gamma or beta of channel c of sample n.
template <typename CT>
double AffineAt(Affine affine, const CT* values, int64_t n, int64_t c, int64_t channels,
                double absent) {
  switch (affine) {
    case Affine::kPerChannel:
      return values[c];
    case Affine::kPerSample:
      return values[n * channels + c];
    case Affine::kAbsent:
      break;
  }
  return absent;
}

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

// Mean and rstd of a group before they are rounded to the type of the outputs.
struct GroupStatistics {
  double mean, rstd;
};

// Over the elements of a channel: sum dz, and sum dz * (x - mean).
struct ChannelSums {
  double dz, dz_centered;
};

// What a group adds to the gradient of each of its elements: (x - mean) * slope + offset.
struct GroupTerms {
  double slope, offset;
};

// How a tensor is cut into units that are summed each on its own and then merged in order. Depends
// on the shape alone, so neither the number of threads nor the schedule changes a result.
struct Layout {
  // Columns are processed in tiles whose tables fit in L1: 1024 floats are 4 KiB a table.
  static constexpr int64_t kTile = 1024;
  // A sum takes at most this many floats before it goes on in double.
  static constexpr int64_t kFloatRows = 64;
  static constexpr int64_t kPiece = 16384;
  // The shift of a unit is the mean of one kShiftShare-th of it. However unlike the rest that part
  // is, the cancellation then costs at most a factor kShiftShare in the rounding of the variance.
  static constexpr int64_t kShiftShare = 16;

  explicit Layout(const Normalization& p);

  // By columns: a sample is a matrix of A rows of C * B columns, summed down its columns. Narrow
  // rows are folded: `fold` of them make one. Otherwise by runs: B neighbours (or those of a whole
  // group) are summed across the lanes of a vector.
  bool by_columns;

  // By columns.
  int64_t fold = 1;  // rows of the tensor per row of the matrix
  int64_t cols = 0;  // fold * C * B
  int64_t rows = 0;  // whole rows of a sample
  int64_t tail = 0;  // columns of one more, partial row
  int64_t chunk_rows = 1;
  int64_t chunks = 1;

  // Rows [begin, end) of a chunk, and the width of the partial row that ends it (or 0).
  int64_t ChunkBegin(int64_t chunk) const { return chunk * chunk_rows; }
  int64_t ChunkEnd(int64_t chunk) const { return std::min(rows, (chunk + 1) * chunk_rows); }
  int64_t ChunkTail(int64_t chunk) const { return chunk == chunks - 1 ? tail : 0; }

  // By runs: a run of `length` elements falls into pieces of at most kPiece.
  static int64_t Pieces(int64_t length) { return (length + kPiece - 1) / kPiece; }

  // Units per sample that give partial results for each group (forward), each channel (backward).
  int64_t group_units, channel_units;
};

// Bytes of scratch memory of a pass: partial results per unit, then totals.
int64_t ForwardWorkspace(const Normalization& p);
int64_t BackwardWorkspace(const Normalization& p);

}  // namespace tfgn

#endif  // TFGN_KERNELS_NORMALIZE_H_
