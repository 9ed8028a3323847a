// Sums down columns and along runs: float lanes over short stretches, double beyond. The order of
// additions depends on the shape alone. Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_REDUCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_REDUCE_INL_H_
#undef TFGN_KERNELS_REDUCE_INL_H_
#else
#define TFGN_KERNELS_REDUCE_INL_H_
#endif

#include <algorithm>

#include "kernels/normalize.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

// Rows whose columns are added up in registers before they go to memory.
constexpr int64_t kRowsAtOnce = 8;
static_assert(Layout::kFloatRows % kRowsAtOnce == 0, "");

// A tile of columns: `width` neighbours from column `begin` of the matrix on.
struct Tile {
  int64_t begin, width;
};

// f(tile) for each tile of columns [begin, end). Tiles do not depend on where a caller cuts the
// columns as long as it cuts between groups: a group narrower than a tile lies in one.
template <class F>
HWY_INLINE void ForEachTile(int64_t begin, int64_t end, int64_t group_cols, F&& f) {
  const int64_t step =
      group_cols > Layout::kTile ? group_cols : Layout::kTile / group_cols * group_cols;
  for (int64_t i = begin; i < end; i += step) {
    const int64_t stop = std::min(i + step, end);
    for (int64_t j = i; j < stop; j += Layout::kTile) {
      f(Tile{j, std::min(Layout::kTile, stop - j)});
    }
  }
}

// f(g, j, count) for the groups of a tile: group g has columns [j, j + count) of the tile, again at
// every further row of a folded tile.
template <class F>
HWY_INLINE void ForEachGroup(const Normalization& p, Tile tile, F&& f) {
  const int64_t group_cols = p.channels_per_group() * p.b;
  const int64_t width = std::min(tile.width, p.c * p.b - tile.begin);
  int64_t g = tile.begin / group_cols;
  for (int64_t j = 0; j < width; ++g) {
    const int64_t count = std::min((g + 1) * group_cols - tile.begin, width) - j;
    f(g, j, count);
    j += count;
  }
}

// f(c, g, j, count) likewise for the channels of a tile.
template <class F>
HWY_INLINE void ForEachChannel(const Normalization& p, Tile tile, F&& f) {
  ForEachGroup(p, tile, [&](int64_t g, int64_t begin, int64_t columns) {
    int64_t c = (tile.begin + begin) / p.b;
    for (int64_t j = begin; j < begin + columns; ++c) {
      const int64_t count = std::min((c + 1) * p.b - tile.begin, begin + columns) - j;
      f(c, g, j, count);
      j += count;
    }
  });
}

// Copies the first row of a folded tile to the others.
template <typename CT>
HWY_INLINE void Replicate(int64_t row, int64_t width, CT* table) {
  for (int64_t j = row; j < width; ++j) table[j] = table[j - row];
}

// wide[0, width) += narrow[0, width); both have room for a whole vector at the end.
HWY_INLINE void AddTo(const float* HWY_RESTRICT narrow, int64_t width, double* HWY_RESTRICT wide) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  for (int64_t j = 0; j < width; j += static_cast<int64_t>(hn::Lanes(d))) {
    hn::StoreU(hn::Add(hn::LoadU(d, wide + j), hn::PromoteTo(d, hn::LoadU(df, narrow + j))), d,
               wide + j);
  }
}

HWY_INLINE void AddTo(const double* HWY_RESTRICT narrow, int64_t width, double* HWY_RESTRICT wide) {
  for (int64_t j = 0; j < width; ++j) wide[j] += narrow[j];
}

// A number per column of a tile, with room for the whole vector that its last column may begin.
template <typename CT>
struct TileTable {
  static constexpr int64_t kPadding = HWY_MAX_BYTES / sizeof(float);
  HWY_ALIGN CT at[Layout::kTile + kPadding];

  void Fill(int64_t width, CT value) { std::fill_n(at, width + kPadding, value); }
  template <class D>
  HWY_INLINE hn::Vec<D> Get(D d, int64_t j) const {
    return hn::Load(d, at + j);
  }
};

// The same number for a whole run.
template <typename CT>
struct Uniform {
  CT value;

  template <class D>
  HWY_INLINE hn::Vec<D> Get(D d, int64_t) const {
    return hn::Set(d, value);
  }
};

// Two sums per column, in the compute type until Flush.
template <typename CT>
struct ColumnSums {
  TileTable<CT> first, second;
  TileTable<double> first_total, second_total;

  void Clear(int64_t width) {
    first.Fill(width, 0);
    second.Fill(width, 0);
    first_total.Fill(width, 0);
    second_total.Fill(width, 0);
  }
  void Flush(int64_t width) {
    AddTo(first.at, width, first_total.at);
    AddTo(second.at, width, second_total.at);
    first.Fill(width, 0);
    second.Fill(width, 0);
  }
};

HWY_INLINE double SumToDouble(hn::ScalableTag<double> d, hn::Vec<hn::ScalableTag<double>> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}

HWY_INLINE double SumToDouble(hn::ScalableTag<float> d, hn::Vec<hn::ScalableTag<float>> v) {
#if HWY_TARGET == HWY_SCALAR
  return hn::GetLane(hn::SumOfLanes(d, v));
#else
  const hn::ScalableTag<double> wide;
  const hn::Half<decltype(d)> half;
  return SumToDouble(wide, hn::Add(hn::PromoteTo(wide, hn::LowerHalf(half, v)),
                                   hn::PromoteTo(wide, hn::UpperHalf(half, v))));
#endif
}

// Two sums along a run of `length` elements: f(j, lanes, first, second) adds elements [j, j +
// lanes) to the vectors first and second.
template <typename CT, class F>
HWY_INLINE void SumRun(int64_t length, double* first_total, double* second_total, F&& f) {
  const hn::ScalableTag<CT> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  // Two pairs of sums hide the latency of an addition.
  const int64_t step = 2 * lanes * Layout::kFloatRows;
  for (int64_t begin = 0; begin < length; begin += step) {
    const int64_t end = std::min(length, begin + step);
    auto first0 = hn::Zero(d), second0 = hn::Zero(d), first1 = hn::Zero(d), second1 = hn::Zero(d);
    int64_t j = begin;
    for (; j + 2 * lanes <= end; j += 2 * lanes) {
      f(j, AllLanes{}, first0, second0);
      f(j + lanes, AllLanes{}, first1, second1);
    }
    for (; j + lanes <= end; j += lanes) f(j, AllLanes{}, first0, second0);
    if (j < end) f(j, FirstLanes{static_cast<size_t>(end - j)}, first0, second0);
    *first_total += SumToDouble(d, hn::Add(first0, first1));
    *second_total += SumToDouble(d, hn::Add(second0, second1));
  }
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_REDUCE_INL_H_
