// The ops GroupNorm and GroupNormGrad (op/op.h).
#ifndef TFGN_OP_GROUP_NORM_H_
#define TFGN_OP_GROUP_NORM_H_

#include <string>

#include "kernels/cpu/group_norm.h"
#include "kernels/cuda/group_norm.h"
#include "kernels/group_norm.h"
#include "op/op.h"

namespace tfgn {

struct GroupNormAttrs {
  int64_t groups = 0, axis = 0, num_side_inputs = 0;
  std::string activation;
  tensorflow::DataType T = tensorflow::DT_INVALID, U = tensorflow::DT_INVALID;

  // f(name, &value) for each, until one is an error.
  template <typename F>
  absl::Status ForEach(F&& f) {
    TF_RETURN_IF_ERROR(f("groups", &groups));
    TF_RETURN_IF_ERROR(f("axis", &axis));
    TF_RETURN_IF_ERROR(f("activation", &activation));
    TF_RETURN_IF_ERROR(f("num_side_inputs", &num_side_inputs));
    TF_RETURN_IF_ERROR(f("T", &T));
    return f("U", &U);
  }
};

// The arguments that both ops pass to the validator.
template <typename Op>
GroupNormCall GroupNormCallOf(const GroupNormAttrs& attrs, const InputDims& inputs) {
  GroupNormCall call;
  call.x = inputs[Op::kX];
  call.gamma = inputs[Op::kGamma];
  call.beta = inputs[Op::kBeta];
  call.num_side_inputs = attrs.num_side_inputs;
  if (attrs.num_side_inputs == 1) call.side_input = inputs[Op::kSideInput];
  call.groups = attrs.groups;
  call.axis = attrs.axis;
  call.activation = attrs.activation;
  call.x_is_double = attrs.T == tensorflow::DT_DOUBLE;
  call.params_are_double = attrs.U == tensorflow::DT_DOUBLE;
  return call;
}

// Returns f(T(), T()), with the element types of the input and the output.
template <typename F>
auto WithTypes(const GroupNormAttrs& attrs, F&& f) {
  return WithType(attrs.T, [&](auto t) { return f(t, t); });
}

// An absent gamma or beta has a shape, [0], but no data.
template <typename P>
P* ParamsOrNull(P* params, Affine affine) {
  return affine == Affine::kAbsent ? nullptr : params;
}

struct GroupNormOp {
  enum Input { kX, kGamma, kBeta, kSideInput };
  enum Output { kY, kMean, kRstd, kRest };
  static constexpr bool kHasBatch = true;

  struct Attrs : GroupNormAttrs {
    float epsilon = 0;
    int64_t with_rest = 0;

    template <typename F>
    absl::Status ForEach(F&& f) {
      TF_RETURN_IF_ERROR(f("epsilon", &epsilon));
      TF_RETURN_IF_ERROR(f("with_rest", &with_rest));
      return GroupNormAttrs::ForEach(f);
    }
  };
  using Shape = GroupNormShape;

  static InputTypes TypesOfInputs(const Attrs& attrs) {
    InputTypes types = {attrs.T, attrs.U, attrs.U};
    if (attrs.num_side_inputs == 1) types.push_back(attrs.T);
    return types;
  }

  static absl::Status Validate(const Attrs& attrs, const InputDims& inputs, Shape* shape) {
    GroupNormCall call = GroupNormCallOf<GroupNormOp>(attrs, inputs);
    call.epsilon = attrs.epsilon;
    call.with_rest = attrs.with_rest;
    return ToStatus(ValidateGroupNorm(call, shape));
  }

  static OutputSpecs Outputs(const Attrs& attrs, const Shape& shape, const InputDims& inputs) {
    OutputSpec y{attrs.T, Sizes(inputs[kX]), {kX}};
    if (shape.has_side_input) y.may_take.push_back(kSideInput);
    const OutputSpec statistics{attrs.U, {shape.n, shape.groups}, {}};
    OutputSpecs outputs = {y, statistics, statistics};
    if (shape.has_rest) outputs.push_back({attrs.U, {shape.n, 2, shape.groups}, {}});
    return outputs;
  }

  template <typename T, typename Tout>
  using Tensors = ForwardTensors<T, Tout>;

  template <typename T>
  static void SetTensors(const Shape& shape, const Buffers& buffers, ForwardTensors<T>* tensors) {
    using U = ParamOf<T>;
    tensors->x = buffers.in<T>(kX);
    tensors->gamma = ParamsOrNull(buffers.in<U>(kGamma), shape.gamma);
    tensors->beta = ParamsOrNull(buffers.in<U>(kBeta), shape.beta);
    if (shape.has_side_input) tensors->side_input = buffers.in<T>(kSideInput);
    tensors->y = buffers.out<T>(kY);
    tensors->mean = buffers.out<U>(kMean);
    tensors->rstd = buffers.out<U>(kRstd);
    if (shape.has_rest) tensors->rest = buffers.out<U>(kRest);
  }
};

struct GroupNormGradOp {
  enum Input { kDy, kX, kGamma, kBeta, kMean, kRstd, kSideInput };  // then rest
  enum Output { kDx, kDgamma, kDbeta, kDside };                     // then y
  static constexpr bool kHasBatch = true;

  struct Attrs : GroupNormAttrs {
    int64_t num_rests = 0, with_y = 0;

    template <typename F>
    absl::Status ForEach(F&& f) {
      TF_RETURN_IF_ERROR(f("num_rests", &num_rests));
      TF_RETURN_IF_ERROR(f("with_y", &with_y));
      return GroupNormAttrs::ForEach(f);
    }
  };
  using Shape = GroupNormShape;

  // Where rest is among the inputs and y among the outputs.
  static int InputRest(const Shape& shape) { return kSideInput + shape.has_side_input; }
  static int OutputY(const Shape& shape) { return kDside + shape.has_side_input; }

  static InputTypes TypesOfInputs(const Attrs& attrs) {
    InputTypes types = {attrs.T, attrs.T, attrs.U, attrs.U, attrs.U, attrs.U};
    if (attrs.num_side_inputs == 1) types.push_back(attrs.T);
    if (attrs.num_rests == 1) types.push_back(attrs.U);
    return types;
  }

  static absl::Status Validate(const Attrs& attrs, const InputDims& inputs, Shape* shape) {
    GroupNormCall call = GroupNormCallOf<GroupNormGradOp>(attrs, inputs);
    call.is_gradient = true;
    call.dy = inputs[kDy];
    call.mean = inputs[kMean];
    call.rstd = inputs[kRstd];
    call.num_rests = attrs.num_rests;
    call.with_y = attrs.with_y;
    if (attrs.num_rests == 1 && (attrs.num_side_inputs == 0 || attrs.num_side_inputs == 1)) {
      call.rest = inputs[kSideInput + static_cast<int>(attrs.num_side_inputs)];
    }
    return ToStatus(ValidateGroupNorm(call, shape));
  }

  static OutputSpecs Outputs(const Attrs& attrs, const Shape& shape, const InputDims& inputs) {
    OutputSpecs outputs = {{attrs.T, Sizes(inputs[kX]), MemoryOfDx(shape)},
                           {attrs.U, Sizes(inputs[kGamma]), {}},
                           {attrs.U, Sizes(inputs[kBeta]), {}}};
    if (shape.has_side_input) {
      OutputSpec dside{attrs.T, Sizes(inputs[kX]), {kSideInput, kDy}};
      if (shape.activation == Activation::kLinear) {
        dside.is_input = kDy;
        outputs[kDx].may_take = {kX};
      }
      outputs.push_back(dside);
    }
    if (shape.with_y) outputs.push_back({attrs.T, Sizes(inputs[kX]), MemoryOfY(shape)});
    return outputs;
  }

  // SiLU without a side input keeps dz in the memory of dx until it has read x again.
  static absl::InlinedVector<int, 3> MemoryOfDx(const Shape& shape) {
    if (shape.activation == Activation::kSilu && !shape.has_side_input) return {kDy, kX};
    return {kX, kDy};
  }

  // After dx and dside have taken theirs.
  static absl::InlinedVector<int, 3> MemoryOfY(const Shape& shape) {
    absl::InlinedVector<int, 3> inputs;
    if (shape.has_side_input) inputs.push_back(kSideInput);
    // dside without an activation is dy.
    if (!shape.has_side_input || shape.activation != Activation::kLinear) inputs.push_back(kDy);
    // SiLU needs x after y is written, or it computes the sigmoid twice.
    if (shape.activation != Activation::kSilu) inputs.push_back(kX);
    return inputs;
  }

  template <typename T, typename Tout>
  using Tensors = BackwardTensors<T, Tout>;

  template <typename T>
  static void SetTensors(const Shape& shape, const Buffers& buffers, BackwardTensors<T>* tensors) {
    using U = ParamOf<T>;
    tensors->dy = buffers.in<T>(kDy);
    tensors->x = buffers.in<T>(kX);
    tensors->gamma = ParamsOrNull(buffers.in<U>(kGamma), shape.gamma);
    tensors->beta = ParamsOrNull(buffers.in<U>(kBeta), shape.beta);
    tensors->mean = buffers.in<U>(kMean);
    tensors->rstd = buffers.in<U>(kRstd);
    tensors->dx = buffers.out<T>(kDx);
    tensors->dgamma = ParamsOrNull(buffers.out<U>(kDgamma), shape.gamma);
    tensors->dbeta = ParamsOrNull(buffers.out<U>(kDbeta), shape.beta);
    if (shape.has_rest) tensors->rest = buffers.in<U>(InputRest(shape));
    if (shape.with_y) tensors->y = buffers.out<T>(OutputY(shape));
    if (!shape.has_side_input) return;
    tensors->side_input = buffers.in<T>(kSideInput);
    tensors->dside = buffers.out<T>(kDside);
  }
};

}  // namespace tfgn

#endif  // TFGN_OP_GROUP_NORM_H_
