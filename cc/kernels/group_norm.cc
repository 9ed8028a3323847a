#include "kernels/group_norm.h"

#include <cmath>

#include "kernels/message.h"

namespace tfgn {
namespace {

std::string ValidateActivation(std::string_view name, Activation* activation) {
  if (name == "linear") {
    *activation = Activation::kLinear;
  } else if (name == "relu") {
    *activation = Activation::kRelu;
  } else if (name == "silu") {
    *activation = Activation::kSilu;
  } else {
    return Concat("activation must be \"linear\", \"relu\" or \"silu\", but is \"", name, "\"");
  }
  return "";
}

// Sets n, a, c and b.
std::string ValidateView(const GroupNormCall& call, GroupNormShape* shape) {
  const Dims& x = call.x;
  shape->n = shape->a = shape->c = shape->b = kUnknownDim;
  if (!x.has_rank()) return "";
  if (x.rank < 2) {
    return Concat("x must have a batch axis and a channel axis, so rank 2 or more, but has shape ",
                  ToString(x));
  }
  const int64_t axis = call.axis < 0 ? call.axis + x.rank : call.axis;
  if (axis < 1 || axis >= x.rank) {
    return Concat("axis must be the channel axis of x, in [1, ", x.rank - 1, "] or [", 1 - x.rank,
                  ", -1], but is ", call.axis, " for x of shape ", ToString(x));
  }
  const int channel = static_cast<int>(axis);
  shape->n = x[0];
  shape->a = Product(x, 1, channel);
  shape->c = x[channel];
  shape->b = Product(x, channel + 1, x.rank);
  if (shape->c != kUnknownDim && shape->c % call.groups != 0) {
    return Concat("groups must divide the ", shape->c, " channels of x, but is ", call.groups,
                  " for x of shape ", ToString(x), " and axis ", call.axis);
  }
  return "";
}

std::string ValidateAffine(const char* name, const Dims& dims, const GroupNormShape& shape,
                           Affine* affine) {
  *affine = Affine::kPerChannel;
  if (!dims.has_rank()) return "";
  if (dims.rank == 1 && dims[0] == 0) {
    *affine = Affine::kAbsent;
    return "";
  }
  if (dims.rank == 1 && Compatible(dims[0], shape.c)) return "";
  if (dims.rank == 2 && Compatible(dims[0], shape.n) && Compatible(dims[1], shape.c)) {
    *affine = Affine::kPerSample;
    return "";
  }
  const int64_t per_sample[] = {shape.n, shape.c};
  return Concat(name, " must have shape [C] = ", ToString({per_sample + 1, 1}),
                ", [N,C] = ", ToString({per_sample, 2}), " or [0] (absent), but has shape ",
                ToString(dims));
}

std::string ValidateLikeX(const char* name, const Dims& dims, const Dims& x) {
  if (Compatible(dims, x)) return "";
  return Concat(name, " must have the shape of x, ", ToString(x), ", but has shape ",
                ToString(dims));
}

// The rest of both statistics.
std::string ValidateRest(const Dims& dims, const GroupNormShape& shape) {
  const int64_t expected[] = {shape.n, 2, shape.groups};
  if (Compatible(dims, {expected, 3})) return "";
  return Concat("rest must have shape [N,2,groups] = ", ToString({expected, 3}), ", but has shape ",
                ToString(dims));
}

// How often there is something that there is once or not at all.
std::string ValidateNumber(const char* name, int64_t number) {
  if (number == 0 || number == 1) return "";
  return Concat(name, " must be 0 or 1, but is ", number);
}

std::string ValidateStatistic(const char* name, const Dims& dims, const GroupNormShape& shape) {
  const int64_t expected[] = {shape.n, shape.groups};
  if (Compatible(dims, {expected, 2})) return "";
  return Concat(name, " must have shape [N,groups] = ", ToString({expected, 2}), ", but has shape ",
                ToString(dims));
}

}  // namespace

std::string ValidateGroupNorm(const GroupNormCall& call, GroupNormShape* shape) {
  if (call.groups < 1) return Concat("groups must be at least 1, but is ", call.groups);
  if (!call.is_gradient && !(std::isfinite(call.epsilon) && call.epsilon >= 0)) {
    return Concat("epsilon must be finite and not negative, but is ", call.epsilon);
  }
  if (call.x_is_double != call.params_are_double) {
    return Concat("U must be double where T is double, and float elsewhere, but T is ",
                  call.x_is_double ? "double and U is float" : "not double and U is double");
  }
  std::string error = ValidateNumber("num_side_inputs", call.num_side_inputs);
  if (call.is_gradient) {
    if (error.empty()) error = ValidateNumber("num_rests", call.num_rests);
    if (error.empty()) error = ValidateNumber("with_y", call.with_y);
  } else if (error.empty()) {
    error = ValidateNumber("with_rest", call.with_rest);
  }
  if (!error.empty()) return error;
  shape->groups = call.groups;
  shape->epsilon = call.epsilon;
  shape->has_side_input = call.num_side_inputs == 1;
  shape->has_rest = (call.is_gradient ? call.num_rests : call.with_rest) == 1;
  shape->with_y = call.is_gradient && call.with_y == 1;

  error = ValidateActivation(call.activation, &shape->activation);
  if (error.empty()) error = ValidateView(call, shape);
  if (error.empty()) error = ValidateAffine("gamma", call.gamma, *shape, &shape->gamma);
  if (error.empty()) error = ValidateAffine("beta", call.beta, *shape, &shape->beta);
  if (error.empty() && shape->has_side_input) {
    error = ValidateLikeX("side_input", call.side_input, call.x);
  }
  if (error.empty() && call.is_gradient) {
    error = ValidateLikeX("dy", call.dy, call.x);
    if (error.empty()) error = ValidateStatistic("mean", call.mean, *shape);
    if (error.empty()) error = ValidateStatistic("rstd", call.rstd, *shape);
    if (error.empty() && shape->has_rest) error = ValidateRest(call.rest, *shape);
  }
  return error;
}

Normalization NormalizationOf(const GroupNormShape& shape) {
  Normalization p{shape.n, shape.a, shape.c, shape.b, shape.groups, shape.gamma, shape.beta};
  p.epsilon = shape.epsilon;
  p.activation = shape.activation;
  return p;
}

}  // namespace tfgn
