// The loops of the backward pass of a Normalization over elements: sums, then the linear form
//   dx = dz * scale + (x - mean) * slope + offset.
// Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_CPU_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_CPU_GRADIENT_INL_H_
#undef TFGN_KERNELS_CPU_GRADIENT_INL_H_
#else
#define TFGN_KERNELS_CPU_GRADIENT_INL_H_
#endif

#include "kernels/cpu/activation-inl.h"
#include "kernels/cpu/reduce-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

// PerColumn or Uniform; scale = rstd * gamma.
template <class Coefficient>
struct BackwardCoefficients {
  Coefficient mean, scale, beta, slope, offset;
};

// x, dy and side_input at the same element.
template <typename T, typename Tout>
struct Source {
  const T* x;
  const Tout* dy;
  const T* side;  // or null

  Source operator+(int64_t i) const { return {x + i, dy + i, side == nullptr ? side : side + i}; }
};

// x - mean, and dz = dy * activation'((x - mean) * scale + beta + side_input); 0 in lanes that are
// not covered.
template <class D>
struct Gradient {
  hn::Vec<D> centered, dz;
};

template <Activation kActivation, class D, typename T, typename Tout, class Lanes, class K>
HWY_INLINE Gradient<D> GradientAt(D d, const Source<T, Tout>& from, int64_t j, Lanes lanes,
                                  const K& k, int64_t column) {
  const auto centered =
      Covered(d, hn::Sub(Read(d, from.x + j, lanes), k.mean.Get(d, column)), lanes);
  const auto dy = Read(d, from.dy + j, lanes);
  if constexpr (kActivation == Activation::kLinear) {
    return {centered, dy};
  } else {
    auto z = hn::MulAdd(centered, k.scale.Get(d, column), k.beta.Get(d, column));
    if (from.side != nullptr) z = hn::Add(z, Read(d, from.side + j, lanes));
    return {centered, Covered(d, ActivateBackward<kActivation>(d, dy, z), lanes)};
  }
}

struct ChannelSums {
  double dz, dz_centered;
};

// Sums of dz and dz * (x - mean) along a run. Writes dz to `kept` unless that is null.
template <Activation kActivation, typename T, typename Tout, class K>
ChannelSums GradientSums(Source<T, Tout> from, T* kept, int64_t length, K k) {
  const hn::ScalableTag<ParamOf<T>> d;
  ChannelSums sums = {0, 0};
  SumRun<ParamOf<T>>(length, &sums.dz, &sums.dz_centered,
                     [&](int64_t j, auto lanes, auto& first, auto& second) HWY_ATTR {
                       const auto at = GradientAt<kActivation>(d, from, j, lanes, k, j);
                       first = hn::Add(first, at.dz);
                       second = hn::MulAdd(at.dz, at.centered, second);
                       if constexpr (kActivation != Activation::kLinear) {
                         if (kept != nullptr) Write(at.dz, d, kept + j, lanes);
                       }
                     });
  return sums;
}

// sums += (dz, dz * (x - mean)) down the rows of a tile and `tail` columns of one more row. Writes
// dz to `kept` unless that is null.
template <Activation kActivation, typename T, typename Tout, typename CT, class K>
void AddGradientRows(Source<T, Tout> from, T* kept, int64_t stride, int64_t rows, int64_t width,
                     int64_t tail, K k, ColumnSums<CT>& sums) {
  const hn::ScalableTag<CT> d;
  const int64_t ahead = kRowsAtOnce * stride;
  const auto add = [&](int64_t r, int64_t j, auto lanes, auto& first, auto& second) HWY_ATTR {
    const int64_t i = r * stride + j;
    PrefetchForRead(from.x + i + ahead);
    PrefetchForRead(from.dy + i + ahead);
    const auto at = GradientAt<kActivation>(d, from, i, lanes, k, j);
    first = hn::Add(first, at.dz);
    second = hn::MulAdd(at.dz, at.centered, second);
    if constexpr (kActivation != Activation::kLinear) {
      if (kept == nullptr) return;
      PrefetchForWrite(kept + i + ahead);
      Write(at.dz, d, kept + i, lanes);
    }
  };
  sums.Add(0, rows, width, add);
  if (tail > 0) sums.Add(rows, rows + 1, tail, add);
}

// What the elementwise stage reads and writes, and the activation of dy.
template <typename T, typename Tout>
struct Elements {
  Activation activation;
  Source<T, Tout> from;
  T* dx;     // or null
  T* dside;  // or null
};

template <Activation kActivation, typename T, typename Tout, class K>
void BackwardRows(const Elements<T, Tout>& elements, int64_t offset, int64_t stride, int64_t rows,
                  int64_t width, K k) {
  const hn::ScalableTag<ParamOf<T>> d;
  const Source<T, Tout> from = elements.from + offset;
  T* const dx = elements.dx == nullptr ? nullptr : elements.dx + offset;
  T* const dside = elements.dside == nullptr ? nullptr : elements.dside + offset;
  const int64_t ahead = PrefetchDistance<T>(rows, stride);
  for (int64_t begin = 0; begin < rows * stride; begin += stride) {
    ForEachVector(d, width, [&](int64_t j, auto lanes) HWY_ATTR {
      const int64_t i = begin + j;
      if (dx != nullptr) PrefetchForWrite(dx + i + ahead);
      if (dside != nullptr) PrefetchForWrite(dside + i + ahead);
      const auto at = GradientAt<kActivation>(d, from, i, lanes, k, j);
      if (dside != nullptr) Write(at.dz, d, dside + i, lanes);
      if (dx != nullptr) {
        const auto linear = hn::MulAdd(at.centered, k.slope.Get(d, j), k.offset.Get(d, j));
        Write(hn::MulAdd(at.dz, k.scale.Get(d, j), linear), d, dx + i, lanes);
      }
    });
  }
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_CPU_GRADIENT_INL_H_
