#include "kernels/normalize.h"

#include <cmath>
#include <numeric>

namespace tfgn {

Normalization NormalizationOf(const GroupNormShape& shape) {
  Normalization p{shape.n, shape.a, shape.c, shape.b, shape.groups, shape.gamma, shape.beta};
  p.epsilon = shape.epsilon;
  p.activation = shape.activation;
  return p;
}

Normalization NormalizationOf(const StandardizeWeightsShape& shape) {
  Normalization p{shape.n, shape.a, shape.c, shape.b, shape.c};
  p.gamma = shape.has_gain ? Affine::kPerSample : Affine::kAbsent;
  p.epsilon = shape.epsilon;
  p.epsilon_mode = shape.epsilon_mode;
  p.ddof = shape.ddof;
  p.scale = shape.scale;
  return p;
}

double Normalization::Rstd(double m2) const {
  const int64_t count = group_size() - ddof;
  const double var = count > 0 ? m2 / static_cast<double>(count) : 0;
  switch (epsilon_mode) {
    case EpsilonMode::kAddToVariance:
      return 1 / std::sqrt(var + epsilon);
    case EpsilonMode::kAddToStddev:
      return 1 / (std::sqrt(var) + epsilon);
    case EpsilonMode::kClampVariance:
      // A NaN variance stays one.
      return 1 / std::sqrt(var < epsilon ? epsilon : var);
  }
  return 0;
}

double Normalization::RstdSlope(double rstd) const {
  const double two_over_count = 2 / static_cast<double>(group_size() - ddof);
  switch (epsilon_mode) {
    case EpsilonMode::kAddToVariance:
      return -0.5 * rstd * rstd * rstd * two_over_count;
    case EpsilonMode::kAddToStddev: {
      const double stddev = 1 / rstd - epsilon;
      // rstd is rounded to float: a stddev below its rounding is 0.
      if (stddev * rstd < 0x1p-23) return 0;
      return -0.5 * rstd * rstd / stddev * two_over_count;
    }
    case EpsilonMode::kClampVariance:
      if (rstd * std::sqrt(epsilon) > 1 - 0x1p-23) return 0;
      return -0.5 * rstd * rstd * rstd * two_over_count;
  }
  return 0;
}

Layout::Layout(const Normalization& p) {
  // Columns need rows to add up, runs need a few vectors' worth of neighbours.
  constexpr int64_t kManyRows = 16;
  constexpr int64_t kVector = 16;
  constexpr int64_t kLongRun = 256;
  by_columns = p.b < kVector || (p.a >= kManyRows && p.b < kLongRun);
  moments_by_columns = by_columns && p.a > 1;
  group_units = p.a * Pieces(p.channels_per_group() * p.b);
  if (!by_columns) {
    channel_units = p.a * Pieces(p.b);
    table_width = p.c;
    columns_per_channel = 1;
    return;
  }
  const int64_t row = p.c * p.b;
  // Rows that fill whole vectors where they can, and of up to 256 columns if A is large.
  if (row < kTile / 2) {
    fold = kVector / std::gcd(row, kVector);
    while (fold > 1 && fold * row > kTile) fold /= 2;
    while (fold * row * 2 <= kTile / 4 && fold * 2 * kFloatRows <= p.a) fold *= 2;
    fold = std::min(fold, p.a);
  }
  cols = fold * row;
  rows = p.a / fold;
  tail = (p.a % fold) * row;
  // A whole row where it fits in a tile (and where it is folded), else whole groups.
  const int64_t group_cols = p.channels_per_group() * p.b;
  block = cols <= kTile ? cols : group_cols > kTile ? group_cols : kTile / group_cols * group_cols;
  blocks = (cols + block - 1) / block;
  // About 128 KiB of floats, so that a large image gives work to many threads.
  chunk_rows = std::clamp<int64_t>((int64_t{32} << 10) / cols, kFloatRows, 8 * kFloatRows);
  chunks = (rows + chunk_rows - 1) / chunk_rows;
  chunk_rows = (rows + chunks - 1) / chunks;  // as many in each
  channel_units = chunks;
  if (moments_by_columns) group_units = chunks;
  table_width = cols;
  columns_per_channel = p.b;
}

}  // namespace tfgn
