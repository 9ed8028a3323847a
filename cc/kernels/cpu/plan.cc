#include "kernels/cpu/plan.h"

#include <numeric>

namespace tfgn {

CpuPlan::CpuPlan(const Normalization& normalization) : p(normalization) {
  if (p.empty()) return;
  // Choices: sums down columns need rows to add up, sums along runs a few vectors of neighbours.
  constexpr int64_t kManyRows = 16;
  constexpr int64_t kVector = 16;  // floats of the widest vector
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
  // Folded rows fill whole vectors if possible, and have up to 256 columns if A is large.
  if (row < kTile / 2) {
    fold = kVector / std::gcd(row, kVector);
    while (fold > 1 && fold * row > kTile) fold /= 2;
    while (fold * row * 2 <= kTile / 4 && fold * 2 * kFloatRows <= p.a) fold *= 2;
    fold = std::min(fold, p.a);
  }
  cols = fold * row;
  rows = p.a / fold;
  tail = (p.a % fold) * row;
  // A strip is a whole row if that fits in a tile (a folded one does), else whole groups.
  const int64_t group_cols = p.channels_per_group() * p.b;
  strip_cols = cols <= kTile        ? cols
               : group_cols > kTile ? group_cols
                                    : kTile / group_cols * group_cols;
  strips = (cols + strip_cols - 1) / strip_cols;
  // A chunk has about 128 KiB of floats, so that a large image is the work of many threads.
  chunk_rows = std::clamp<int64_t>((int64_t{32} << 10) / cols, kFloatRows, 8 * kFloatRows);
  chunks = (rows + chunk_rows - 1) / chunk_rows;
  chunk_rows = (rows + chunks - 1) / chunks;  // chunks of equal size
  channel_units = chunks;
  if (moments_by_columns) group_units = chunks;
  table_width = cols;
  columns_per_channel = p.b;
}

}  // namespace tfgn
