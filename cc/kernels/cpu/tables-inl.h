// Coefficients per channel, laid out as the elementwise loops read them. Include after
// hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_CPU_TABLES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_CPU_TABLES_INL_H_
#undef TFGN_KERNELS_CPU_TABLES_INL_H_
#else
#define TFGN_KERNELS_CPU_TABLES_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/plan.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

// f(c, lanes), a vector of doubles for channels [c, c + lanes), goes to the columns of channels
// [begin, end) in a row of a table.
template <typename CT, class F>
HWY_INLINE void FillChannels(const CpuPlan& plan, CT* row, int64_t begin, int64_t end, F&& f) {
  const hn::ScalableTag<double> d;
  const int64_t columns = plan.columns_per_channel;
  ForEachVector(d, end - begin, [&](int64_t j, auto lanes) HWY_ATTR {
    const auto values = f(begin + j, lanes);
    if (columns == 1) {
      WriteNarrow(values, d, row + begin + j, lanes);
    } else {
      HWY_ALIGN double each[HWY_MAX_BYTES / sizeof(double)];
      hn::Store(values, d, each);
      const int64_t count = std::min(end - begin - j, static_cast<int64_t>(hn::Lanes(d)));
      for (int64_t i = 0; i < count; ++i) {
        std::fill_n(row + (begin + j + i) * columns, columns, static_cast<CT>(each[i]));
      }
    }
  });
  for (int64_t fold = 1; fold < plan.fold; ++fold) {
    std::copy(row + begin * columns, row + end * columns,
              row + (fold * plan.p.c + begin) * columns);
  }
}

// gamma or beta of channels [c, c + lanes), or `absent`.
template <class D, typename CT, class Lanes>
HWY_INLINE hn::Vec<D> ReadAffine(D d, const CT* values, int64_t c, Lanes lanes, double absent) {
  return values == nullptr ? hn::Set(d, absent) : ReadWide(d, values + c, lanes);
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_CPU_TABLES_INL_H_
