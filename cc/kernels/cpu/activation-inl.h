// Activations and their gradients on vectors. Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_CPU_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_CPU_ACTIVATION_INL_H_
#undef TFGN_KERNELS_CPU_ACTIVATION_INL_H_
#else
#define TFGN_KERNELS_CPU_ACTIVATION_INL_H_
#endif

#include <type_traits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/normalize.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// exp(-z) for |z| <= 87.
template <class D>
HWY_INLINE hn::Vec<D> ExpOfNegative(D d, hn::Vec<D> z) {
  if constexpr (std::is_same_v<hn::TFromD<D>, double>) {
    return hn::Exp(d, hn::Neg(z));
  } else {
    // exp(-z) = 2^n * 2^f with n + f = -z * log2(e), |f| <= 1/2. Adding 1.5 * 2^23 rounds to n,
    // which then stands in the low bits.
    const auto log2e = hn::Set(d, 1.44269502f), log2e_rest = hn::Set(d, 1.92596299e-8f);
    const auto round = hn::Set(d, 12582912.0f);
    const auto shifted = hn::NegMulAdd(z, log2e, round);
    const auto n = hn::Sub(round, shifted);  // -n
    const auto f = hn::NegMulAdd(z, log2e_rest, hn::NegMulAdd(z, log2e, n));
    // 2^f to a relative 1e-8: (2^f - 1) / f interpolated in the 6 Chebyshev nodes.
    const auto f2 = hn::Mul(f, f);
    const auto p01 = hn::MulAdd(f, hn::Set(d, 6.931471825e-1f), hn::Set(d, 1.0f));
    const auto p23 = hn::MulAdd(f, hn::Set(d, 5.550356954e-2f), hn::Set(d, 2.402265072e-1f));
    const auto p45 = hn::MulAdd(f, hn::Set(d, 1.339086331e-3f), hn::Set(d, 9.618083015e-3f));
    const auto p456 = hn::MulAdd(f2, hn::Set(d, 1.545316336e-4f), p45);
    const auto p = hn::MulAdd(f2, hn::MulAdd(f2, p456, p23), p01);
    const hn::RebindToSigned<D> di;
    return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  }
}

// 1 / v for v >= 1.
template <class D>
HWY_INLINE hn::Vec<D> Reciprocal(D d, hn::Vec<D> v) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  if constexpr (std::is_same_v<hn::TFromD<D>, float>) {
    // 14 bits and one step of Newton's method; a division costs four times as much.
    const auto y = hn::ApproximateReciprocal(v);
    return hn::MulAdd(y, hn::NegMulAdd(v, y, hn::Set(d, 1)), y);
  }
#endif
  return hn::Div(hn::Set(d, 1), v);
}

// z, or -87 if z is less: exp(-z) is finite, and z * sigmoid(z) of less is 0 in any precision.
// Keeps NaN.
template <class D>
HWY_INLINE hn::Vec<D> SigmoidRange(D d, hn::Vec<D> z) {
  return hn::IfThenElse(hn::Lt(z, hn::Set(d, -87)), hn::Set(d, -87), z);
}

// 1 / (1 + exp(-z)) for z >= -87.
template <class D>
HWY_INLINE hn::Vec<D> Sigmoid(D d, hn::Vec<D> z) {
  const auto e = ExpOfNegative(d, hn::Min(z, hn::Set(d, 87)));
  return Reciprocal(d, hn::Add(hn::Set(d, 1), e));
}

template <Activation kActivation, class D>
HWY_INLINE hn::Vec<D> Activate(D d, hn::Vec<D> z) {
  if constexpr (kActivation == Activation::kRelu) {
    // Keeps NaN, as tf.nn.relu does.
    return hn::IfThenZeroElse(hn::Lt(z, hn::Zero(d)), z);
  } else if constexpr (kActivation == Activation::kSilu) {
    z = SigmoidRange(d, z);
    return hn::Mul(z, Sigmoid(d, z));
  } else {
    return z;
  }
}

// y = activation(z), with the bits of Activate, and dz = dy * activation'(z);
// silu'(z) = s * (1 + z * (1 - s)) with s = sigmoid(z). What is not used costs nothing.
template <class D>
struct Activated {
  hn::Vec<D> y, dz;
};

template <Activation kActivation, class D>
HWY_INLINE Activated<D> ActivateBackward(D d, hn::Vec<D> dy, hn::Vec<D> z) {
  if constexpr (kActivation == Activation::kSilu) {
    const auto one = hn::Set(d, 1);
    z = SigmoidRange(d, z);
    const auto s = Sigmoid(d, z);
    return {hn::Mul(z, s), hn::Mul(dy, hn::Mul(s, hn::MulAdd(z, hn::Sub(one, s), one)))};
  } else if constexpr (kActivation == Activation::kRelu) {
    return {Activate<kActivation>(d, z), hn::IfThenElseZero(hn::Gt(z, hn::Zero(d)), dy)};
  } else {
    return {z, dy};
  }
}

// The activations that a pass offers. Others are not compiled.
template <Activation... kActivations>
struct Activations {
  // f(std::integral_constant of `activation`), one of kActivations.
  template <class F>
  static HWY_INLINE void Dispatch(Activation activation, F&& f) {
    ((activation == kActivations ? f(std::integral_constant<Activation, kActivations>()) : void()),
     ...);
  }
};

// Those of GroupNorm, or of StandardizeWeights, whose output alone may be of another type.
template <typename T, typename Tout>
using ActivationsOf =
    std::conditional_t<std::is_same_v<T, Tout>,
                       Activations<Activation::kLinear, Activation::kRelu, Activation::kSilu>,
                       Activations<Activation::kLinear>>;

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_CPU_ACTIVATION_INL_H_
