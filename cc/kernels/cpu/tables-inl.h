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

// A statistic, and what it lost when it was rounded. Both are of CT, so that a backward pass can
// read what a forward pass computed with.
template <class D>
struct SplitStatistic {
  hn::Vec<D> rounded, rest;

  HWY_INLINE hn::Vec<D> Sum() const { return hn::Add(rounded, rest); }
};

template <typename CT, class D>
HWY_INLINE SplitStatistic<D> Split(D d, hn::Vec<D> v) {
  const auto rounded = Rounded<CT>(d, v);
  const auto rest = Rounded<CT>(d, hn::Sub(v, rounded));
  // Not NaN where the rounding is to infinity.
  return {rounded, hn::IfThenElseZero(hn::IsFinite(rest), rest)};
}

// scale and shift of z = (x - mean) * scale + shift, for channels of one group or of a vector of
// groups. shift corrects the rounding of mean, which would cost accuracy if |mean| is large. What
// computes z in either pass takes them from here, so that its bits are the same.
template <class D, typename CT>
struct Affines {
  D d;
  hn::Vec<D> rest_of_mean, scaled_rstd;
  const CT* gamma;
  const CT* beta;

  template <class Lanes>
  HWY_INLINE hn::Vec<D> Scale(int64_t c, Lanes lanes) const {
    return hn::Mul(scaled_rstd, ReadAffine(d, gamma, c, lanes, 1));
  }
  template <class Lanes>
  HWY_INLINE hn::Vec<D> Shift(int64_t c, Lanes lanes) const {
    return hn::NegMulAdd(rest_of_mean, Scale(c, lanes), ReadAffine(d, beta, c, lanes, 0));
  }
};

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_CPU_TABLES_INL_H_
