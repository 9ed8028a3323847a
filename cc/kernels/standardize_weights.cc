#include "kernels/standardize_weights.h"

#include <cmath>
#include <limits>

#include "kernels/message.h"

namespace tfgn {
namespace {

using Call = StandardizeWeightsCall;
using Shape = StandardizeWeightsShape;

std::string ValidateEpsilon(const Call& call, Shape* shape) {
  if (!(std::isfinite(call.epsilon) && call.epsilon >= 0)) {
    return Concat("epsilon must be finite and not negative, but is ", call.epsilon);
  }
  shape->epsilon = call.epsilon;
  if (call.epsilon_mode == "add_to_variance") {
    shape->epsilon_mode = EpsilonMode::kAddToVariance;
  } else if (call.epsilon_mode == "add_to_stddev") {
    shape->epsilon_mode = EpsilonMode::kAddToStddev;
  } else if (call.epsilon_mode == "clamp_variance") {
    shape->epsilon_mode = EpsilonMode::kClampVariance;
  } else {
    return Concat(
        "epsilon_mode must be \"add_to_variance\", \"add_to_stddev\" or \"clamp_variance\", "
        "but is \"",
        call.epsilon_mode, "\"");
  }
  return "";
}

// Whether each axis of w is an output-channel axis.
std::string ValidateAxes(const Call& call, std::vector<bool>* kept) {
  const int rank = call.w.rank;
  if (call.num_axes == 0) {
    return "axis must name at least one output-channel axis of w, but is []";
  }
  kept->assign(rank, false);
  for (int i = 0; i < call.num_axes; ++i) {
    const int64_t axis = call.axis[i] < 0 ? call.axis[i] + rank : call.axis[i];
    if (axis < 0 || axis >= rank) {
      return Concat("axis must lie in [", -rank, ", ", rank - 1, "], but holds ", call.axis[i],
                    " for w of shape ", ToString(call.w));
    }
    if ((*kept)[axis]) {
      return Concat("axis must not name an axis twice, but ", call.axis[i],
                    " is a repetition for w of shape ", ToString(call.w));
    }
    (*kept)[axis] = true;
  }
  return "";
}

int64_t ProductOf(const Dims& w, const std::vector<bool>& kept, bool kind) {
  std::vector<int64_t> sizes;
  for (int i = 0; i < w.rank; ++i) {
    if (kept[i] == kind) sizes.push_back(w[i]);
  }
  const int count = static_cast<int>(sizes.size());
  return Product({sizes.data(), count}, 0, count);
}

// Sets n, a, c, b and runs for a w of known shape, with outputs and fan_in set.
void SetView(const Dims& w, const std::vector<bool>& kept, Shape* shape) {
  shape->n = shape->b = 1;
  shape->a = shape->fan_in;
  shape->c = shape->outputs;
  shape->runs.clear();
  if (shape->outputs == 0 || shape->fan_in == 0) return;

  // runs[i] is reduced for even i.
  std::vector<int64_t> runs = {1};
  bool last_kept = false;
  for (int i = 0; i < w.rank; ++i) {
    if (w[i] == 1) continue;
    if (kept[i] == last_kept) {
      runs.back() = SaturatingProduct(runs.back(), w[i]);
    } else {
      runs.push_back(w[i]);
      last_kept = kept[i];
    }
  }
  if (last_kept) runs.push_back(1);

  // Now ..., N, A, C, B with B = runs.back().
  int64_t view[4] = {1, 1, 1, 1};
  const int count = static_cast<int>(runs.size());
  for (int i = 0; i < 4 && i < count; ++i) view[3 - i] = runs[count - 1 - i];
  shape->n = view[0];
  shape->a = view[1];
  shape->c = view[2];
  shape->b = view[3];
  if (count > 5 || (count == 5 && runs[0] != 1)) {
    shape->n = shape->a = 1;
    shape->c = shape->outputs;
    shape->b = shape->fan_in;
    shape->runs = std::move(runs);
  }
}

std::string ValidatePerOutput(const char* name, const Dims& dims, int64_t outputs,
                              const char* or_absent) {
  if (Compatible(dims, {&outputs, 1})) return "";
  return Concat(name, " must have shape [O] = ", ToString({&outputs, 1}), or_absent,
                ", but has shape ", ToString(dims));
}

}  // namespace

std::string ValidateStandardizeWeights(const Call& call, Shape* shape) {
  if (call.w_is_double != call.params_are_double) {
    return Concat("U must be double where T is double, and float elsewhere, but T is ",
                  call.w_is_double ? "double and U is float" : "not double and U is double");
  }
  if (call.w_is_double != call.w_hat_is_double) {
    return Concat("Tout must be double where T is double, and nowhere else, but T is ",
                  call.w_is_double ? "double and Tout is not" : "not double and Tout is");
  }
  if (call.ddof != 0 && call.ddof != 1) {
    return Concat("ddof must be 0 or 1, but is ", call.ddof);
  }
  if (!std::isfinite(call.scale)) return Concat("scale must be finite, but is ", call.scale);
  shape->ddof = call.ddof;
  shape->scale = call.scale;
  shape->has_gain = !(call.gain.rank == 1 && call.gain[0] == 0);
  shape->outputs = shape->fan_in = kUnknownDim;
  if (std::string error = ValidateEpsilon(call, shape); !error.empty()) return error;

  if (call.w.has_rank()) {
    std::vector<bool> kept;
    if (std::string error = ValidateAxes(call, &kept); !error.empty()) return error;
    shape->outputs = ProductOf(call.w, kept, true);
    shape->fan_in = ProductOf(call.w, kept, false);
    if (shape->outputs != kUnknownDim && shape->fan_in != kUnknownDim) {
      SetView(call.w, kept, shape);
    }
  }
  if (shape->fan_in == 1 && call.ddof == 1) {
    return Concat("ddof must be 0 where an output channel has a single weight, but is 1 for w of ",
                  "shape ", ToString(call.w));
  }
  std::string error;
  if (shape->has_gain) {
    error = ValidatePerOutput("gain", call.gain, shape->outputs, " or [0] (absent)");
  }
  if (error.empty() && call.is_gradient) {
    error = ValidatePerOutput("mean", call.mean, shape->outputs, "");
    if (error.empty()) error = ValidatePerOutput("rstd", call.rstd, shape->outputs, "");
    if (error.empty() && !Compatible(call.dw_hat, call.w)) {
      error = Concat("dw_hat must have the shape of w, ", ToString(call.w), ", but has shape ",
                     ToString(call.dw_hat));
    }
  }
  return error;
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

}  // namespace tfgn
