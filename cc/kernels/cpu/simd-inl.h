// Vectors of the compute type (float, or double for double) to and from memory of any element
// type, whole or in part. Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_CPU_SIMD_INL_H_
#undef TFGN_KERNELS_CPU_SIMD_INL_H_
#else
#define TFGN_KERNELS_CPU_SIMD_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/dtypes.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// A lambda on vectors that is called in several places: out of line, vectors pass through memory.
#define TFGN_LAMBDA HWY_ATTR __attribute__((always_inline))

template <class D>
using Rebind16 = hn::Rebind<uint16_t, D>;

template <class D>
HWY_INLINE hn::Vec<D> Read(D d, const hn::TFromD<D>* p) {
  return hn::LoadU(d, p);
}

template <class D>
HWY_INLINE hn::Vec<D> Read(D d, const bfloat16* p) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::LoadU(Rebind16<D>(), &p->bits);
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}

// Whether the target converts binary16 itself.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_F16C)
#define TFGN_HAS_F16C 1
#else
#define TFGN_HAS_F16C 0
#endif

// Float bits of binary16 bits, subnormals included whatever the rounding and flushing modes are.
// Where the target does not convert, PromoteTo of Highway up to 1.4 makes numbers of infinities and
// NaNs.
template <class D>
HWY_INLINE hn::Vec<D> Read(D d, const float16* p) {
#if TFGN_HAS_F16C
  const hn::Rebind<hwy::float16_t, D> dh;
  return hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(p)));
#else
  const hn::RebindToUnsigned<D> du;
  const auto half = hn::PromoteTo(du, hn::LoadU(Rebind16<D>(), &p->bits));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(half, hn::Set(du, 0x7FFFu)));
  const auto sign = hn::ShiftLeft<16>(hn::And(half, hn::Set(du, 0x8000u)));
  const auto rebias = hn::Set(du, (127u - 15u) << 23);
  const auto normal = hn::Add(magnitude, rebias);
  const auto non_finite = hn::Add(normal, rebias);
  const auto implicit_one = hn::Set(du, 113u << 23);
  const auto subnormal = hn::BitCast(
      du, hn::Sub(hn::BitCast(d, hn::Add(magnitude, implicit_one)), hn::BitCast(d, implicit_one)));
  const hn::RebindToSigned<D> di;
  const auto exponent = hn::BitCast(di, magnitude);
  auto bits = hn::IfThenElse(hn::RebindMask(du, hn::Lt(exponent, hn::Set(di, 0x0400 << 13))),
                             subnormal, normal);
  bits = hn::IfThenElse(hn::RebindMask(du, hn::Gt(exponent, hn::Set(di, 0x7BFF << 13))), non_finite,
                        bits);
  return hn::BitCast(d, hn::Or(bits, sign));
#endif
}

template <class D>
HWY_INLINE void Write(hn::Vec<D> v, D d, hn::TFromD<D>* p) {
  hn::StoreU(v, d, p);
}

// How many lanes of a vector an access covers: all, or the first few.
struct AllLanes {};
struct FirstLanes {
  size_t count;

  // `count` never exceeds the lanes of D; saying so keeps the compiler from warning of it.
  template <class D, typename T>
  size_t Bytes() const {
    return HWY_MIN(count, HWY_MAX_BYTES / sizeof(hn::TFromD<D>)) * sizeof(T);
  }
};

// --- what Highway 1.2 has (CONTRIBUTING.md, "Highway") ---

// DemoteTo from float: to bfloat16_t it rounds from 1.2.0 on, to float16_t on targets without F16C
// from 1.1.0 on. 1.0.3 truncates.

// The low 16 bits of each lane; the upper ones are 0.
template <class D, class VU>
HWY_INLINE void StoreLow16(VU v, D /*d*/, uint16_t* p) {
  hn::StoreU(hn::TruncateTo(Rebind16<D>(), v), Rebind16<D>(), p);
}

// Rounds to nearest even. A NaN loses its low bits and stays one: a NaN of arithmetic is quiet, and
// one that was read from 16 bits has no low bits.
template <class D>
HWY_INLINE void Write(hn::Vec<D> v, D d, bfloat16* p) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto half =
      hn::IfThenElseZero(hn::RebindMask(du, hn::Eq(v, v)), hn::Add(odd, hn::Set(du, 0x7FFFu)));
  StoreLow16(hn::ShiftRight<16>(hn::Add(bits, half)), d, &p->bits);
}

// Rounds to nearest even, overflows to infinity; a NaN stays one.
template <class D>
HWY_INLINE void Write(hn::Vec<D> v, [[maybe_unused]] D d, float16* p) {
#if TFGN_HAS_F16C
  const hn::Rebind<hwy::float16_t, D> dh;
  hn::StoreU(hn::DemoteTo(dh, v), dh, reinterpret_cast<hwy::float16_t*>(p));
#else
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(du, v);
  const auto sign = hn::And(bits, hn::Set(du, 0x80000000u));
  const auto magnitude = hn::Xor(bits, sign);
  const auto compare = hn::BitCast(di, magnitude);

  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
  const auto rebias = hn::Set(du, 0xFFFu - ((127u - 15u) << 23));
  const auto normal = hn::ShiftRight<13>(hn::Add(hn::Add(magnitude, rebias), odd));
  // Adding 0.5 puts the 10 bits of a subnormal, rounded, at the end of the fraction.
  const auto half = hn::Set(du, 126u << 23);
  const auto subnormal =
      hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, magnitude), hn::BitCast(d, half))), half);
  auto result = hn::IfThenElse(hn::RebindMask(du, hn::Lt(compare, hn::Set(di, 113 << 23))),
                               subnormal, normal);
  const auto overflow = hn::RebindMask(du, hn::Gt(compare, hn::Set(di, (143 << 23) - 1)));
  result = hn::IfThenElse(overflow, hn::Set(du, 0x7C00u), result);
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(v));
  result = hn::IfThenElse(is_nan, hn::Set(du, 0x7E00u), result);
  StoreLow16(hn::Or(result, hn::ShiftRight<16>(sign)), d, &p->bits);
#endif
}
#undef TFGN_HAS_F16C

// LoadN and StoreN exist from 1.0.6 on.

// Whether MaskedLoad and BlendedStore leave the memory of other lanes alone.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
#define TFGN_SAFE_MASKS 1
#else
#define TFGN_SAFE_MASKS 0
#endif

// Lanes past the end read as 0; nothing past the end is touched.
template <class D, typename T>
HWY_INLINE hn::Vec<D> Read(D d, const T* p, FirstLanes n) {
  if constexpr (TFGN_SAFE_MASKS && std::is_same_v<T, hn::TFromD<D>>) {
    return hn::MaskedLoad(hn::FirstN(d, n.count), d, p);
  } else {
    HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(hn::TFromD<D>)] = {};
    std::memcpy(lanes, p, n.template Bytes<D, T>());
    return Read(d, lanes);
  }
}

template <class D, typename T>
HWY_INLINE void Write(hn::Vec<D> v, D d, T* p, FirstLanes n) {
  if constexpr (TFGN_SAFE_MASKS && std::is_same_v<T, hn::TFromD<D>>) {
    hn::BlendedStore(v, hn::FirstN(d, n.count), d, p);
  } else {
    HWY_ALIGN T lanes[HWY_MAX_BYTES / sizeof(hn::TFromD<D>)];
    Write(v, d, lanes);
    std::memcpy(p, lanes, n.template Bytes<D, T>());
  }
}
#undef TFGN_SAFE_MASKS

// --- what it lacks ---

template <class D, typename T>
HWY_INLINE hn::Vec<D> Read(D d, const T* p, AllLanes) {
  return Read(d, p);
}

template <class D, typename T>
HWY_INLINE void Write(hn::Vec<D> v, D d, T* p, AllLanes) {
  Write(v, d, p);
}

// v with 0 in the lanes that an access does not cover.
template <class D>
HWY_INLINE hn::Vec<D> Covered(D, hn::Vec<D> v, AllLanes) {
  return v;
}

template <class D>
HWY_INLINE hn::Vec<D> Covered(D d, hn::Vec<D> v, FirstLanes n) {
  return hn::IfThenElseZero(hn::FirstN(d, n.count), v);
}

// Doubles from and to memory of the compute type.
template <class D, class Lanes>
HWY_INLINE hn::Vec<D> ReadWide(D d, const float* p, Lanes lanes) {
  return hn::PromoteTo(d, Read(hn::Rebind<float, D>(), p, lanes));
}
template <class D, class Lanes>
HWY_INLINE hn::Vec<D> ReadWide(D d, const double* p, Lanes lanes) {
  return Read(d, p, lanes);
}
template <class D, class Lanes>
HWY_INLINE void WriteNarrow(hn::Vec<D> v, D, float* p, Lanes lanes) {
  const hn::Rebind<float, D> df;
  Write(hn::DemoteTo(df, v), df, p, lanes);
}
template <class D, class Lanes>
HWY_INLINE void WriteNarrow(hn::Vec<D> v, D d, double* p, Lanes lanes) {
  Write(v, d, p, lanes);
}

// v rounded to the compute type.
template <typename CT, class D>
HWY_INLINE hn::Vec<D> Rounded(D d, hn::Vec<D> v) {
  if constexpr (std::is_same_v<CT, float>) {
    return hn::PromoteTo(d, hn::DemoteTo(hn::Rebind<float, D>(), v));
  } else {
    return v;
  }
}

// Fetches the cache line of p. Does nothing past the end of a tensor.
HWY_INLINE void PrefetchForRead(const void* p) { __builtin_prefetch(p, 0); }

// Fetches the cache line of p for writing. A store that waits for its line costs more than a
// non-temporal one (benchmarks/NOTES.md).
HWY_INLINE void PrefetchForWrite(const void* p) {
#if HWY_ARCH_X86
  // Without -mprfchw, __builtin_prefetch(p, 1) fetches for reading. Old CPUs treat it as a nop.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p)));
#else
  __builtin_prefetch(p, 1);
#endif
}

// How many elements ahead to fetch: 2 KiB, which arrive while a core works on the 2 KiB before. For
// rows `stride` apart, as many whole rows.
template <typename T>
HWY_INLINE int64_t PrefetchDistance(int64_t rows, int64_t stride) {
  constexpr int64_t kAhead = 2048 / sizeof(T);
  return rows == 1 ? kAhead : (kAhead + stride - 1) / stride * stride;
}

// f(j, lanes) for each vector of a row of `width` elements; the last one may be partial.
template <class D, class F>
HWY_INLINE void ForEachVector(D d, int64_t width, F&& f) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t j = 0;
  for (; j + lanes <= width; j += lanes) f(j, AllLanes{});
  if (j < width) f(j, FirstLanes{static_cast<size_t>(width - j)});
}

// For the second vector of a line where there is none.
struct NoLanes {};
template <class Lanes>
inline constexpr bool kAnyLanes = !std::is_same_v<Lanes, NoLanes>;

// f(j, first, second) for each cache line of a row of `width` elements, or half of one where
// vectors have 16 bytes: the lanes to access of the vector at j and of the one behind it. `second`
// is NoLanes where a vector is a whole line, and at the end of the row. In a matrix, rows that are
// 4 KiB apart share a set of the L1 cache, where a line that is half read may not stay.
template <class D, class F>
HWY_INLINE void ForEachLine(D d, int64_t width, F&& f) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t j = 0;
  if (lanes * sizeof(hn::TFromD<D>) < 64) {
    for (; j + 2 * lanes <= width; j += 2 * lanes) f(j, AllLanes{}, AllLanes{});
  }
  ForEachVector(d, width - j, [&](int64_t i, auto lanes_of_one) TFGN_LAMBDA {
    f(j + i, lanes_of_one, NoLanes{});
  });
}

// ForEachVector with prefetch(j) before each line.
template <class D, class Prefetch, class F>
HWY_INLINE void ForEachVector(D d, int64_t width, Prefetch&& prefetch, F&& f) {
  ForEachLine(d, width, [&](int64_t j, auto first, auto second) TFGN_LAMBDA {
    prefetch(j);
    f(j, first);
    if constexpr (kAnyLanes<decltype(second)>) f(j + static_cast<int64_t>(hn::Lanes(d)), second);
  });
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_CPU_SIMD_INL_H_
