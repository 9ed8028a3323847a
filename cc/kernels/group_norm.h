// Group normalization (Wu & He 2018, arXiv:1803.08494) and its gradient.
//
// A tensor of any rank is seen as [N, A, C, B]: N the batch (axis 0), C the channel axis, A and B
// the products of the axes between them and after the channel axis. channels_last is B = 1,
// channels_first is A = 1. The C channels fall into G groups of C / G neighbours.
//
//   mean, var   over (A, C / G, B) of each (n, g)
//   rstd        = 1 / sqrt(var + epsilon)
//   z           = (x - mean) * rstd * gamma + beta + side_input
//   y           = activation(z)
//
// and, with M = A * (C / G) * B, xhat = (x - mean) * rstd and sums over (A, C / G, B) of (n, g),
//
//   dz          = dy * activation'(z)
//   dside       = dz
//   dbeta       = sum dz,  dgamma = sum dz * xhat       over (N, A, B), or (A, B) if per sample
//   dx          = rstd * (gamma * dz - (sum(gamma * dz) + xhat * sum(gamma * dz * xhat)) / M)
#ifndef TFGN_KERNELS_GROUP_NORM_H_
#define TFGN_KERNELS_GROUP_NORM_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/dims.h"
#include "kernels/normalize.h"

namespace tfgn {

// The arguments of a call before validation, by the names that users know.
struct GroupNormCall {
  Dims x, gamma, beta;
  int64_t num_side_inputs = 0;
  Dims side_input;        // read if num_side_inputs is 1
  int64_t with_rest = 0;  // ignored if is_gradient
  int64_t groups = 0;
  int64_t axis = -1;
  double epsilon = 0;  // ignored if is_gradient
  std::string_view activation = "linear";
  bool x_is_double = false, params_are_double = false;

  bool is_gradient = false;
  // Read if is_gradient.
  Dims dy, mean, rstd;
  int64_t num_rests = 0, with_y = 0;
  Dims rest;  // read if num_rests is 1
};

// A valid call. In a shape function, unknown sizes are kUnknownDim.
struct GroupNormShape {
  int64_t n = 0, a = 0, c = 0, b = 0, groups = 1;
  double epsilon = 0;
  Activation activation = Activation::kLinear;
  Affine gamma = Affine::kAbsent, beta = Affine::kAbsent;
  bool has_side_input = false;
  bool has_rest = false;  // as an output, or as an input of the gradient
  bool with_y = false;    // as an output of the gradient

  int64_t channels_per_group() const { return c / groups; }
};

// Fills *shape and returns "", or returns an error in one sentence, with the argument, its value
// and what is valid. All validation of the op is here.
std::string ValidateGroupNorm(const GroupNormCall& call, GroupNormShape* shape);

Normalization NormalizationOf(const GroupNormShape& shape);

}  // namespace tfgn

#endif  // TFGN_KERNELS_GROUP_NORM_H_
