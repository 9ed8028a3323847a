// The ops StandardizeWeights and StandardizeWeightsGrad (op/op.h).
#ifndef TFGN_OP_STANDARDIZE_WEIGHTS_H_
#define TFGN_OP_STANDARDIZE_WEIGHTS_H_

#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cpu/standardize_weights.h"
#include "kernels/cuda/standardize_weights.h"
#include "kernels/standardize_weights.h"
#include "op/op.h"

namespace tfgn {

struct StandardizeWeightsAttrs {
  std::vector<int64_t> axis;
  float epsilon = 0, scale = 1;
  std::string epsilon_mode;
  int64_t ddof = 0;
  tensorflow::DataType T = tensorflow::DT_INVALID, Tout = tensorflow::DT_INVALID,
                       U = tensorflow::DT_INVALID;

  // f(name, &value) for each, until one is an error.
  template <typename F>
  absl::Status ForEach(F&& f) {
    TF_RETURN_IF_ERROR(f("axis", &axis));
    TF_RETURN_IF_ERROR(f("epsilon", &epsilon));
    TF_RETURN_IF_ERROR(f("epsilon_mode", &epsilon_mode));
    TF_RETURN_IF_ERROR(f("ddof", &ddof));
    TF_RETURN_IF_ERROR(f("scale", &scale));
    TF_RETURN_IF_ERROR(f("T", &T));
    TF_RETURN_IF_ERROR(f("Tout", &Tout));
    return f("U", &U);
  }
};

// The arguments that both ops pass to the validator.
template <typename Op>
StandardizeWeightsCall StandardizeWeightsCallOf(const StandardizeWeightsAttrs& attrs,
                                                const InputDims& inputs) {
  StandardizeWeightsCall call;
  call.w = inputs[Op::kW];
  call.gain = inputs[Op::kGain];
  call.axis = attrs.axis.data();
  call.num_axes = static_cast<int>(attrs.axis.size());
  call.epsilon = attrs.epsilon;
  call.epsilon_mode = attrs.epsilon_mode;
  call.ddof = attrs.ddof;
  call.scale = attrs.scale;
  call.w_is_double = attrs.T == tensorflow::DT_DOUBLE;
  call.w_hat_is_double = attrs.Tout == tensorflow::DT_DOUBLE;
  call.params_are_double = attrs.U == tensorflow::DT_DOUBLE;
  return call;
}

// Returns f(T(), Tout()), with the element types of the input and the output.
// REQUIRES: the validator accepts the two types together.
template <typename F>
auto WithTypes(const StandardizeWeightsAttrs& attrs, F&& f) {
  return WithType(attrs.T, [&](auto t) {
    return WithType(attrs.Tout, [&](auto tout) {
      constexpr bool is_double = std::is_same_v<decltype(t), double>;
      if constexpr (is_double == std::is_same_v<decltype(tout), double>) {
        return f(t, tout);
      } else {
        return f(t, t);
      }
    });
  });
}

// The part that the op and its gradient share.
struct StandardizeWeightsOpBase {
  static constexpr bool kHasBatch = false;

  using Attrs = StandardizeWeightsAttrs;
  using Shape = StandardizeWeightsShape;
};

struct StandardizeWeightsOp : StandardizeWeightsOpBase {
  enum Input { kW, kGain };
  enum Output { kWHat, kMean, kRstd };

  static InputTypes TypesOfInputs(const Attrs& attrs) { return {attrs.T, attrs.U}; }

  static absl::Status Validate(const Attrs& attrs, const InputDims& inputs, Shape* shape) {
    return ToStatus(ValidateStandardizeWeights(
        StandardizeWeightsCallOf<StandardizeWeightsOp>(attrs, inputs), shape));
  }

  static OutputSpecs Outputs(const Attrs& attrs, const Shape& shape, const InputDims& inputs) {
    const OutputSpec statistics{attrs.U, {shape.outputs}, {}};
    return {{attrs.Tout, Sizes(inputs[kW]), {}}, statistics, statistics};
  }

  template <typename T, typename Tout>
  using Tensors = ForwardTensors<T, Tout>;

  template <typename T, typename Tout>
  static void SetTensors(const Shape& shape, const Buffers& buffers,
                         ForwardTensors<T, Tout>* tensors) {
    using U = ParamOf<T>;
    tensors->x = buffers.in<T>(kW);
    if (shape.has_gain) tensors->gamma = buffers.in<U>(kGain);
    tensors->y = buffers.out<Tout>(kWHat);
    tensors->mean = buffers.out<U>(kMean);
    tensors->rstd = buffers.out<U>(kRstd);
  }
};

struct StandardizeWeightsGradOp : StandardizeWeightsOpBase {
  enum Input { kDwHat, kW, kGain, kMean, kRstd };
  enum Output { kDw, kDgain };

  static InputTypes TypesOfInputs(const Attrs& attrs) {
    return {attrs.Tout, attrs.T, attrs.U, attrs.U, attrs.U};
  }

  static absl::Status Validate(const Attrs& attrs, const InputDims& inputs, Shape* shape) {
    auto call = StandardizeWeightsCallOf<StandardizeWeightsGradOp>(attrs, inputs);
    call.is_gradient = true;
    call.dw_hat = inputs[kDwHat];
    call.mean = inputs[kMean];
    call.rstd = inputs[kRstd];
    return ToStatus(ValidateStandardizeWeights(call, shape));
  }

  static OutputSpecs Outputs(const Attrs& attrs, const Shape&, const InputDims& inputs) {
    return {{attrs.T, Sizes(inputs[kW]), {kDwHat}}, {attrs.U, Sizes(inputs[kGain]), {}}};
  }

  template <typename T, typename Tout>
  using Tensors = BackwardTensors<T, Tout>;

  template <typename T, typename Tout>
  static void SetTensors(const Shape& shape, const Buffers& buffers,
                         BackwardTensors<T, Tout>* tensors) {
    using U = ParamOf<T>;
    tensors->dy = buffers.in<Tout>(kDwHat);
    tensors->x = buffers.in<T>(kW);
    tensors->mean = buffers.in<U>(kMean);
    tensors->rstd = buffers.in<U>(kRstd);
    tensors->dx = buffers.out<T>(kDw);
    if (!shape.has_gain) return;
    tensors->gamma = buffers.in<U>(kGain);
    tensors->dgamma = buffers.out<U>(kDgain);
  }
};

}  // namespace tfgn

#endif  // TFGN_OP_STANDARDIZE_WEIGHTS_H_
