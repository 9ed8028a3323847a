// Weight standardization (Qiao et al. 2019, arXiv:1903.10520) in every published form, and its
// gradient.
//
// Every output channel o has `fan_in` weights, those on the axes that are not output-channel axes:
//
//   mean, var   over the fan_in weights of o; var divides by fan_in - ddof
//   rstd        = 1 / sqrt(var + epsilon)          add_to_variance
//                 1 / (sqrt(var) + epsilon)        add_to_stddev
//                 1 / sqrt(max(var, epsilon))      clamp_variance
//   w_hat       = gain * scale * (w - mean) * rstd
//
// and, with g = dw_hat * gain * scale and sums over the weights of o,
//
//   dgain       = sum dw_hat * scale * (w - mean) * rstd
//   dw          = rstd * (g - sum(g) / fan_in)
//                 + (w - mean) * sum(g * (w - mean)) * (d rstd / d var) * 2 / (fan_in - ddof)
//   d rstd / d var = -rstd^3 / 2                              add_to_variance
//                    -rstd^2 / (2 * (1 / rstd - epsilon))     add_to_stddev, 0 where var is 0
//                    -rstd^3 / 2 where var > epsilon, else 0  clamp_variance
#ifndef TFGN_KERNELS_STANDARDIZE_WEIGHTS_H_
#define TFGN_KERNELS_STANDARDIZE_WEIGHTS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/dims.h"
#include "kernels/normalize.h"

namespace tfgn {

// The arguments of a call before validation, by the names that users know.
struct StandardizeWeightsCall {
  Dims w, gain;
  const int64_t* axis = nullptr;  // the output-channel axes
  int num_axes = 0;
  double epsilon = 0;
  std::string_view epsilon_mode = "add_to_variance";
  int64_t ddof = 0;
  double scale = 1;
  bool w_is_double = false, w_hat_is_double = false, params_are_double = false;

  bool is_gradient = false;
  Dims dw_hat, mean, rstd;  // read if is_gradient
};

// A valid call. In a shape function, unknown sizes are kUnknownDim.
struct StandardizeWeightsShape {
  int64_t outputs = 0;  // O, in the order of w
  int64_t fan_in = 0;
  double epsilon = 0;
  EpsilonMode epsilon_mode = EpsilonMode::kAddToVariance;
  int64_t ddof = 0;
  double scale = 1;
  bool has_gain = false;

  // w as [n, a, c, b] with n * c outputs and fan_in = a * b: every published layout is one such.
  int64_t n = 0, a = 0, c = 0, b = 0;
  // Empty, or, if the axes do not allow that view, the sizes of w with neighbours of one kind
  // merged: alternately reduced and kept, reduced first. Then [n, a, c, b] describes a transposed
  // copy.
  std::vector<int64_t> runs;
};

// Fills *shape and returns "", or returns an error in one sentence, with the argument, its value
// and what is valid. All validation of the op is here.
std::string ValidateStandardizeWeights(const StandardizeWeightsCall& call,
                                       StandardizeWeightsShape* shape);

// Of the transposed copy where the shape has `runs`. Every output channel is a group.
Normalization NormalizationOf(const StandardizeWeightsShape& shape);

}  // namespace tfgn

#endif  // TFGN_KERNELS_STANDARDIZE_WEIGHTS_H_
