// Sums down columns and along runs, in float for up to kFloatRows numbers and in double beyond. The
// order of additions depends on the shape alone. Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_CPU_REDUCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_CPU_REDUCE_INL_H_
#undef TFGN_KERNELS_CPU_REDUCE_INL_H_
#else
#define TFGN_KERNELS_CPU_REDUCE_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/plan.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

// f(i, j, count) for the groups, or the channels, of a tile: i has columns [j, j + count) of every
// row of the tensor in the tile. `size` is the number of columns of a group or channel, `row` that
// of a row of the tensor.
template <class F>
HWY_INLINE void ForEachIn(Tile tile, int64_t size, int64_t row, F&& f) {
  const int64_t width = std::min(tile.width, row - tile.begin);
  int64_t i = tile.begin / size;
  for (int64_t j = 0; j < width; ++i) {
    const int64_t count = std::min((i + 1) * size - tile.begin, width) - j;
    f(i, j, count);
    j += count;
  }
}

// A number per column. A whole vector can be read from every column.
template <typename CT>
struct PerColumn {
  const CT* at;

  template <class D>
  HWY_INLINE hn::Vec<D> Get(D d, int64_t j) const {
    return hn::LoadU(d, at + j);
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

// Rows that are summed between a load and a store of the sums: 2 accesses for 8 additions.
constexpr int64_t kRowsAtOnce = 8;
static_assert(CpuPlan::kFloatRows % kRowsAtOnce == 0, "");

// Two sums per column of a tile.
template <typename CT>
class ColumnSums {
 public:
  static constexpr int64_t kWidth = CpuPlan::kTile + HWY_MAX_BYTES / sizeof(float);

  // Up to the width of the first Add.
  HWY_ALIGN double first[kWidth], second[kWidth];

  // Adds rows [begin, end): f(r, j, lanes, sum1, sum2) adds the elements of row r in columns
  // [j, j + lanes) to the vectors sum1 and sum2, after prefetch(r, j) for their cache line.
  template <class Prefetch, class F>
  HWY_INLINE void Add(int64_t begin, int64_t end, int64_t width, Prefetch&& prefetch, F&& f) {
    for (int64_t r = begin; r < end; r += CpuPlan::kFloatRows) {
      AddFloatRows(r, std::min(end, r + CpuPlan::kFloatRows), width, prefetch, f);
      MoveTo(first_part_, width, first);
      MoveTo(second_part_, width, second);
      empty_ = false;
    }
  }

 private:
  using V = hn::Vec<hn::ScalableTag<CT>>;

  template <class Prefetch, class F>
  HWY_INLINE void AddFloatRows(int64_t begin, int64_t end, int64_t width, Prefetch& prefetch,
                               F& f) {
    const hn::ScalableTag<CT> d;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    for (int64_t block = begin; block < end; block += kRowsAtOnce) {
      const int64_t stop = std::min(end, block + kRowsAtOnce);
      ForEachLine(d, width, [&](int64_t j, auto these, auto next) TFGN_LAMBDA {
        auto sum1 = hn::Zero(d), sum2 = hn::Zero(d), next1 = hn::Zero(d), next2 = hn::Zero(d);
        for (int64_t r = block; r < stop; ++r) {
          prefetch(r, j);
          f(r, j, these, sum1, sum2);
          if constexpr (kAnyLanes<decltype(next)>) f(r, j + lanes, next, next1, next2);
        }
        AddToParts(block > begin, j, sum1, sum2);
        if constexpr (kAnyLanes<decltype(next)>) AddToParts(block > begin, j + lanes, next1, next2);
      });
    }
  }

  HWY_INLINE void AddToParts(bool begun, int64_t j, V sum1, V sum2) {
    const hn::ScalableTag<CT> d;
    if (begun) {  // rounds less than starting from the sums so far
      sum1 = hn::Add(hn::Load(d, first_part_ + j), sum1);
      sum2 = hn::Add(hn::Load(d, second_part_ + j), sum2);
    }
    hn::Store(sum1, d, first_part_ + j);
    hn::Store(sum2, d, second_part_ + j);
  }

  HWY_INLINE void MoveTo(const CT* HWY_RESTRICT part, int64_t width, double* HWY_RESTRICT whole) {
    const hn::ScalableTag<double> d;
    for (int64_t j = 0; j < width; j += static_cast<int64_t>(hn::Lanes(d))) {
      const auto added = ReadWide(d, part + j, AllLanes{});
      hn::Store(empty_ ? added : hn::Add(hn::Load(d, whole + j), added), d, whole + j);
    }
  }

  bool empty_ = true;
  // Sums of up to kFloatRows rows.
  HWY_ALIGN CT first_part_[kWidth], second_part_[kWidth];
};

// The sum of values[0, count).
template <typename CT>
HWY_INLINE double SumOf(const CT* values, int64_t count) {
  const hn::ScalableTag<double> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  double total = 0;
  int64_t j = 0;
  if (count >= 2 * lanes) {
    auto sum = hn::Zero(d);
    for (; j + lanes <= count; j += lanes) sum = hn::Add(sum, ReadWide(d, values + j, AllLanes{}));
    total = hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; j < count; ++j) total += values[j];
  return total;
}

// The sum over columns [begin, begin + count) of every row of the tensor in a tile, folded or not.
// A row of the tensor has `row` columns.
template <typename CT>
HWY_INLINE double SumOfFolds(const CT* values, int64_t begin, int64_t count, int64_t row,
                             int64_t width) {
  double total = 0;
  for (int64_t j = begin; j < width; j += row) total += SumOf(values + j, count);
  return total;
}

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

// Two sums along a run of `length` elements: f(j, lanes, first, second) adds elements
// [j, j + lanes) to the vectors `first` and `second`.
template <typename CT, class F>
HWY_INLINE void SumRun(int64_t length, double* first_total, double* second_total, F&& f) {
  const hn::ScalableTag<CT> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  // Two pairs of sums hide the latency of additions.
  const int64_t step = 2 * lanes * CpuPlan::kFloatRows;
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

#endif  // TFGN_KERNELS_CPU_REDUCE_INL_H_
