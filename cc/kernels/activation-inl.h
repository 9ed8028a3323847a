// Activations and their gradients on vectors. Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_ACTIVATION_INL_H_
#undef TFGN_KERNELS_ACTIVATION_INL_H_
#else
#define TFGN_KERNELS_ACTIVATION_INL_H_
#endif

#include <type_traits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/group_norm.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// 1 / (1 + exp(-z)), from exp(-|z|), which neither overflows nor cancels.
template <class D>
HWY_INLINE hn::Vec<D> Sigmoid(D d, hn::Vec<D> z) {
  const auto one = hn::Set(d, 1);
  const auto e = hn::Exp(d, hn::Neg(hn::Abs(z)));
  return hn::Div(hn::IfThenElse(hn::Lt(z, hn::Zero(d)), e, one), hn::Add(one, e));
}

template <Activation kActivation, class D>
HWY_INLINE hn::Vec<D> Activate(D d, hn::Vec<D> z) {
  if constexpr (kActivation == Activation::kRelu) {
    // As tf.nn.relu, a NaN stays one.
    return hn::IfThenZeroElse(hn::Lt(z, hn::Zero(d)), z);
  } else if constexpr (kActivation == Activation::kSilu) {
    return hn::Mul(z, Sigmoid(d, z));
  } else {
    return z;
  }
}

// dy * activation'(z); silu'(z) = s * (1 + z * (1 - s)) with s = sigmoid(z).
template <Activation kActivation, class D>
HWY_INLINE hn::Vec<D> ActivateBackward(D d, hn::Vec<D> dy, hn::Vec<D> z) {
  if constexpr (kActivation == Activation::kRelu) {
    return hn::IfThenElseZero(hn::Gt(z, hn::Zero(d)), dy);
  } else if constexpr (kActivation == Activation::kSilu) {
    const auto one = hn::Set(d, 1);
    const auto s = Sigmoid(d, z);
    return hn::Mul(dy, hn::Mul(s, hn::MulAdd(z, hn::Sub(one, s), one)));
  } else {
    return dy;
  }
}

// The activations that an op offers; code exists for no others.
template <Activation... kActivations>
struct Activations {
  // f(std::integral_constant of `activation`), one of kActivations.
  template <class F>
  static HWY_INLINE void Dispatch(Activation activation, F&& f) {
    ((activation == kActivations ? f(std::integral_constant<Activation, kActivations>()) : void()),
     ...);
  }
};

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_ACTIVATION_INL_H_
