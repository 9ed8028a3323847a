// What GroupNorm and StandardizeWeights have in common: the G groups of C / G channels of a tensor
// [N, A, C, B] are normalized to mean 0 and variance 1, then scaled and shifted per channel. The
// CPU and CUDA share the inline functions.
#ifndef TFGN_KERNELS_NORMALIZE_H_
#define TFGN_KERNELS_NORMALIZE_H_

#include <cmath>
#include <cstdint>

#include "kernels/dtypes.h"

#ifdef __CUDACC__
#define TFGN_HOST_DEVICE __host__ __device__
#else
#define TFGN_HOST_DEVICE
#endif

namespace tfgn {

enum class Activation { kLinear, kRelu, kSilu };

// gamma and beta: absent is a tensor of shape [0].
enum class Affine { kAbsent, kPerChannel /* [C] */, kPerSample /* [N, C] */ };

enum class EpsilonMode { kAddToVariance, kAddToStddev, kClampVariance };

struct Normalization {
  int64_t n, a, c, b, groups;
  Affine gamma = Affine::kAbsent, beta = Affine::kAbsent;
  double epsilon = 0;
  EpsilonMode epsilon_mode = EpsilonMode::kAddToVariance;
  int64_t ddof = 0;
  double scale = 1;
  Activation activation = Activation::kLinear;

  TFGN_HOST_DEVICE int64_t channels_per_group() const { return c / groups; }
  TFGN_HOST_DEVICE int64_t group_size() const { return a * channels_per_group() * b; }
  int64_t affine_size(Affine affine) const {
    return affine == Affine::kAbsent ? 0 : affine == Affine::kPerSample ? n * c : c;
  }
  bool empty() const { return n == 0 || a == 0 || c == 0 || b == 0; }

  // m2: sum of squared deviations from the mean over a group.
  TFGN_HOST_DEVICE double Rstd(double m2) const {
    const int64_t count = group_size() - ddof;
    const double var = count > 0 ? m2 / static_cast<double>(count) : 0;
    switch (epsilon_mode) {
      case EpsilonMode::kAddToVariance:
        return 1 / std::sqrt(var + epsilon);
      case EpsilonMode::kAddToStddev:
        return 1 / (std::sqrt(var) + epsilon);
      case EpsilonMode::kClampVariance:
        // Keeps NaN.
        return 1 / std::sqrt(var < epsilon ? epsilon : var);
    }
    return 0;
  }

  // (d rstd / d var) * 2 / (group_size - ddof), from the saved rstd.
  TFGN_HOST_DEVICE double RstdSlope(double rstd) const {
    const double two_over_count = 2 / static_cast<double>(group_size() - ddof);
    switch (epsilon_mode) {
      case EpsilonMode::kAddToVariance:
        return -0.5 * rstd * rstd * rstd * two_over_count;
      case EpsilonMode::kAddToStddev: {
        const double stddev = 1 / rstd - epsilon;
        // rstd is rounded to float, so a stddev below the rounding counts as 0.
        if (stddev * rstd < 0x1p-23) return 0;
        return -0.5 * rstd * rstd / stddev * two_over_count;
      }
      case EpsilonMode::kClampVariance:
        if (rstd * std::sqrt(epsilon) > 1 - 0x1p-23) return 0;
        return -0.5 * rstd * rstd * rstd * two_over_count;
    }
    return 0;
  }
};

// gamma or beta of sample n, [C], or null.
template <typename CT>
TFGN_HOST_DEVICE const CT* AffineOf(Affine affine, const CT* values, int64_t n, int64_t channels) {
  return affine == Affine::kAbsent      ? nullptr
         : affine == Affine::kPerSample ? values + n * channels
                                        : values;
}

// The tensors of a pass. All are contiguous, absent inputs are null. In StandardizeWeights, x is w,
// gamma is gain and y is w_hat. y may be the memory of x or of side_input.
//
// mean + rest[:, 0] and rstd + rest[:, 1] are what y is computed from: rest is what the statistics
// lost when they were rounded to their type.
template <typename T, typename Tout = T>
struct ForwardTensors {
  const T* x = nullptr;
  const ParamOf<T>* gamma = nullptr;
  const ParamOf<T>* beta = nullptr;
  const T* side_input = nullptr;
  Tout* y = nullptr;
  ParamOf<T>* mean = nullptr;  // [N, G]
  ParamOf<T>* rstd = nullptr;  // [N, G]
  ParamOf<T>* rest = nullptr;  // [N, 2, G], or null
};

// Outputs that are not wanted are null. dx may be the memory of dy or x, dside that of dy or
// side_input, y that of x, dy or side_input. With the rest of the forward pass, y has its bits.
template <typename T, typename Tout = T>
struct BackwardTensors {
  const Tout* dy = nullptr;
  const T* x = nullptr;
  const ParamOf<T>* gamma = nullptr;
  const ParamOf<T>* beta = nullptr;
  const ParamOf<T>* mean = nullptr;
  const ParamOf<T>* rstd = nullptr;
  const ParamOf<T>* rest = nullptr;  // counts as 0 if it is null
  const T* side_input = nullptr;
  T* dx = nullptr;
  ParamOf<T>* dgamma = nullptr;  // shaped as gamma
  ParamOf<T>* dbeta = nullptr;   // shaped as beta
  T* dside = nullptr;
  Tout* y = nullptr;
};

}  // namespace tfgn

#endif  // TFGN_KERNELS_NORMALIZE_H_
