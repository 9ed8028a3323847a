#include "kernels/normalize.h"

#include <cmath>

namespace tfgn {

Normalization NormalizationOf(const GroupNormShape& shape) {
  Normalization p{shape.n, shape.a, shape.c, shape.b, shape.groups, shape.gamma, shape.beta};
  p.epsilon = shape.epsilon;
  p.activation = shape.activation;
  return p;
}

Normalization NormalizationOf(const StandardizeWeightsShape& shape) {
  Normalization p{shape.n, shape.a, shape.c, shape.b, shape.c};
  p.gamma = shape.has_gain ? Affine::kPerSample : Affine::kAbsent;
  p.epsilon = shape.epsilon;
  p.epsilon_mode = shape.epsilon_mode;
  p.ddof = shape.ddof;
  p.scale = shape.scale;
  return p;
}

double Normalization::Rstd(double m2) const {
  const int64_t count = group_size() - ddof;
  const double var = count > 0 ? m2 / static_cast<double>(count) : 0;
  switch (epsilon_mode) {
    case EpsilonMode::kAddToVariance:
      return 1 / std::sqrt(var + epsilon);
    case EpsilonMode::kAddToStddev:
      return 1 / (std::sqrt(var) + epsilon);
    case EpsilonMode::kClampVariance:
      // A NaN variance stays one.
      return 1 / std::sqrt(var < epsilon ? epsilon : var);
  }
  return 0;
}

double Normalization::RstdSlope(double rstd) const {
  const double two_over_count = 2 / static_cast<double>(group_size() - ddof);
  switch (epsilon_mode) {
    case EpsilonMode::kAddToVariance:
      return -0.5 * rstd * rstd * rstd * two_over_count;
    case EpsilonMode::kAddToStddev: {
      const double stddev = 1 / rstd - epsilon;
      // rstd is rounded to float: a stddev below its rounding is 0.
      if (stddev * rstd < 0x1p-23) return 0;
      return -0.5 * rstd * rstd / stddev * two_over_count;
    }
    case EpsilonMode::kClampVariance:
      if (rstd * std::sqrt(epsilon) > 1 - 0x1p-23) return 0;
      return -0.5 * rstd * rstd * rstd * two_over_count;
  }
  return 0;
}

}  // namespace tfgn
