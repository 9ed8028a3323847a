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

// PerColumn or Uniform. mean, scale and shift are those of the forward pass.
template <class Coefficient>
struct BackwardCoefficients {
  Coefficient mean, scale, shift, slope, offset;
};

// x, dy and side_input at the same element.
template <typename T, typename Tout>
struct Source {
  const T* x;
  const Tout* dy;
  const T* side;  // or null

  Source operator+(int64_t i) const { return {x + i, dy + i, side == nullptr ? side : side + i}; }
};

// x - mean and dz = dy * activation'(z), both 0 in lanes that are not covered, and
// y = activation(z), with z = (x - mean) * scale + shift + side_input.
template <class D>
struct Gradient {
  hn::Vec<D> centered, dz, y;
};

// `with_y`: whether y is used. Without an activation, nothing else needs z.
template <Activation kActivation, class D, typename T, typename Tout, class Lanes, class K>
HWY_INLINE Gradient<D> GradientAt(D d, const Source<T, Tout>& from, int64_t j, Lanes lanes,
                                  const K& k, int64_t column, bool with_y) {
  const auto centered =
      Covered(d, hn::Sub(Read(d, from.x + j, lanes), k.mean.Get(d, column)), lanes);
  const auto dy = Read(d, from.dy + j, lanes);
  if (kActivation == Activation::kLinear && !with_y) return {centered, dy, centered};
  auto z = hn::MulAdd(centered, k.scale.Get(d, column), k.shift.Get(d, column));
  if (from.side != nullptr) z = hn::Add(z, Read(d, from.side + j, lanes));
  const auto activated = ActivateBackward<kActivation>(d, dy, z);
  return {centered, Covered(d, activated.dz, lanes), activated.y};
}

struct ChannelSums {
  double dz, dz_centered;
};

// Where the sums leave what they have computed on the way.
template <typename T, typename Tout>
struct Kept {
  T* dz = nullptr;    // or null
  Tout* y = nullptr;  // or null, as it is without dz

  Kept operator+(int64_t i) const {
    return {dz == nullptr ? dz : dz + i, y == nullptr ? y : y + i};
  }
  template <class D, class Lanes>
  HWY_INLINE void Put(const Gradient<D>& at, D d, int64_t i, Lanes lanes) const {
    Write(at.dz, d, dz + i, lanes);
    if (y != nullptr) Write(at.y, d, y + i, lanes);
  }
};

// Sums of dz and dz * (x - mean) along a run.
template <Activation kActivation, typename T, typename Tout, class K>
ChannelSums GradientSums(Source<T, Tout> from, Kept<T, Tout> kept, int64_t length, K k) {
  const hn::ScalableTag<ParamOf<T>> d;
  ChannelSums sums = {0, 0};
  SumRun<ParamOf<T>>(length, &sums.dz, &sums.dz_centered,
                     [&](int64_t j, auto lanes, auto& first, auto& second) HWY_ATTR {
                       const auto at = GradientAt<kActivation>(d, from, j, lanes, k, j, false);
                       first = hn::Add(first, at.dz);
                       second = hn::MulAdd(at.dz, at.centered, second);
                       if constexpr (kActivation == Activation::kSilu) {
                         if (kept.dz != nullptr) kept.Put(at, d, j, lanes);
                       }
                     });
  return sums;
}

// sums += (dz, dz * (x - mean)) down the rows of a tile and `tail` columns of one more row.
template <Activation kActivation, typename T, typename Tout, typename CT, class K>
void AddGradientRows(Source<T, Tout> from, Kept<T, Tout> kept, int64_t stride, int64_t rows,
                     int64_t width, int64_t tail, K k, ColumnSums<CT>& sums) {
  const hn::ScalableTag<CT> d;
  const int64_t ahead = kRowsAtOnce * stride;
  const auto prefetch = [&](int64_t r, int64_t j) HWY_ATTR {
    const int64_t i = r * stride + j + ahead;
    PrefetchForRead(from.x + i);
    PrefetchForRead(from.dy + i);
    if constexpr (kActivation == Activation::kSilu) {
      if (kept.dz != nullptr) PrefetchForWrite(kept.dz + i);
      if (kept.y != nullptr) PrefetchForWrite(kept.y + i);
    }
  };
  const auto add = [&](int64_t r, int64_t j, auto lanes, auto& first, auto& second) TFGN_LAMBDA {
    const int64_t i = r * stride + j;
    const auto at = GradientAt<kActivation>(d, from, i, lanes, k, j, false);
    first = hn::Add(first, at.dz);
    second = hn::MulAdd(at.dz, at.centered, second);
    if constexpr (kActivation == Activation::kSilu) {
      if (kept.dz != nullptr) kept.Put(at, d, i, lanes);
    }
  };
  sums.Add(0, rows, width, prefetch, add);
  if (tail > 0) sums.Add(rows, rows + 1, tail, prefetch, add);
}

// What the elementwise stage reads and writes, and the activation of dy.
template <typename T, typename Tout>
struct Elements {
  Activation activation;
  Source<T, Tout> from;
  T* dx;     // or null
  T* dside;  // or null
  Tout* y;   // or null
};

template <Activation kActivation, typename T, typename Tout, class K>
void BackwardRows(const Elements<T, Tout>& elements, int64_t offset, int64_t stride, int64_t rows,
                  int64_t width, K k) {
  const hn::ScalableTag<ParamOf<T>> d;
  const Source<T, Tout> from = elements.from + offset;
  T* const dx = elements.dx == nullptr ? nullptr : elements.dx + offset;
  T* const dside = elements.dside == nullptr ? nullptr : elements.dside + offset;
  Tout* const y = elements.y == nullptr ? nullptr : elements.y + offset;
  const int64_t ahead = PrefetchDistance<T>(rows, stride);
  for (int64_t begin = 0; begin < rows * stride; begin += stride) {
    const auto prefetch = [&](int64_t j) HWY_ATTR {
      const int64_t i = begin + j + ahead;
      if (dx != nullptr) PrefetchForWrite(dx + i);
      if (dside != nullptr) PrefetchForWrite(dside + i);
      if (y != nullptr) PrefetchForWrite(y + i);
    };
    ForEachVector(d, width, prefetch, [&](int64_t j, auto lanes) TFGN_LAMBDA {
      const int64_t i = begin + j;
      const auto at = GradientAt<kActivation>(d, from, i, lanes, k, j, y != nullptr);
      if (y != nullptr) Write(at.y, d, y + i, lanes);
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
