// What GroupNorm and StandardizeWeights have in common: a tensor [N, A, C, B] whose G groups of
// C / G channels are each brought to mean 0 and variance 1, then scaled and shifted per channel.
// Internal to the kernels.
#ifndef TFGN_KERNELS_NORMALIZE_H_
#define TFGN_KERNELS_NORMALIZE_H_

#include <cstdint>

#include "kernels/group_norm.h"
#include "kernels/standardize_weights.h"

namespace tfgn {

struct Normalization {
  int64_t n, a, c, b, groups;
  Affine gamma = Affine::kAbsent, beta = Affine::kAbsent;
  double epsilon = 0;
  EpsilonMode epsilon_mode = EpsilonMode::kAddToVariance;
  int64_t ddof = 0;
  double scale = 1;
  Activation activation = Activation::kLinear;

  int64_t channels_per_group() const { return c / groups; }
  int64_t group_size() const { return a * channels_per_group() * b; }
  int64_t affine_size(Affine affine) const {
    return affine == Affine::kAbsent ? 0 : affine == Affine::kPerSample ? n * c : c;
  }
  bool empty() const { return n == 0 || a == 0 || c == 0 || b == 0; }

  // m2: sum of squared deviations from the mean over a group.
  double Rstd(double m2) const;
  // (d rstd / d var) * 2 / (group_size - ddof), from the saved rstd.
  double RstdSlope(double rstd) const;
};

Normalization NormalizationOf(const GroupNormShape& shape);
// Of the transposed copy where the shape has `runs`.
Normalization NormalizationOf(const StandardizeWeightsShape& shape);

// gamma or beta of sample n, [C], or null.
template <typename CT>
const CT* AffineOf(Affine affine, const CT* values, int64_t n, int64_t channels) {
  return affine == Affine::kAbsent      ? nullptr
         : affine == Affine::kPerSample ? values + n * channels
                                        : values;
}

}  // namespace tfgn

#endif  // TFGN_KERNELS_NORMALIZE_H_
