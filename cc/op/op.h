// The parts of an op that TensorFlow's executor and XLA share.
//
// An op is a struct, in <op>.h, with
//
//   Attrs, Shape: its attributes, and a valid call of it
//   Input, Output: enums, in the order of REGISTER_OP
//   kHasBatch: whether axis 0 of every tensor with two axes or more is the batch
//   TypesOfInputs(attrs): the types of its inputs, in their order
//   Validate(attrs, inputs, shape): returns an error, or fills *shape
//   Outputs(attrs, shape, inputs): how to allocate its outputs
//   Tensors<T, Tout>: the tensors of its pass, for the element types from WithTypes(attrs, f)
//   SetTensors(shape, buffers, tensors): sets them to the memory of the call
#ifndef TFGN_OP_OP_H_
#define TFGN_OP_OP_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cpu/pass.h"
#include "kernels/cuda/pass.h"
#include "kernels/dims.h"
#include "kernels/dtypes.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/errors.h"

namespace tfgn {

template <typename T>
inline constexpr tensorflow::DataType kDataType = tensorflow::DataTypeToEnum<T>::value;
template <>
inline constexpr tensorflow::DataType kDataType<float16> = tensorflow::DT_HALF;
template <>
inline constexpr tensorflow::DataType kDataType<bfloat16> = tensorflow::DT_BFLOAT16;

// Returns f(T()) for the element type T that is `type`.
// REQUIRES: the kernels are compiled for `type`.
template <typename F>
auto WithType(tensorflow::DataType type, F&& f) {
#define TFGN_CASE(T) \
  if (type == kDataType<T>) return f(T());
  TFGN_FOR_EACH_DTYPE(TFGN_CASE)
#undef TFGN_CASE
  return f(float());
}

// Owns the sizes of every input of a call.
class InputDims {
 public:
  // `sizes(i)` returns the sizes of input i.
  template <typename Sizes>
  InputDims(int num_inputs, Sizes&& sizes) : inputs_(num_inputs) {
    for (int i = 0; i < num_inputs; ++i) {
      const auto& of_input = sizes(i);
      inputs_[i].sizes.assign(of_input.begin(), of_input.end());
      inputs_[i].rank = static_cast<int>(of_input.size());
    }
  }

  // Inputs of unknown shapes.
  explicit InputDims(int num_inputs) : inputs_(num_inputs) {}

  // Sets the rank of input i, which may be kUnknownRank, and its sizes to size(j).
  template <typename Size>
  void Set(int i, int rank, Size&& size) {
    Input& input = inputs_[i];
    input.sizes.clear();
    input.rank = rank;
    for (int j = 0; j < rank; ++j) input.sizes.push_back(size(j));
  }

  Dims operator[](int i) const { return {inputs_[i].sizes.data(), inputs_[i].rank}; }

 private:
  struct Input {
    absl::InlinedVector<int64_t, 4> sizes;
    int rank = kUnknownRank;
  };
  absl::InlinedVector<Input, 8> inputs_;
};

using InputTypes = absl::InlinedVector<tensorflow::DataType, 8>;

// How to allocate an output.
struct OutputSpec {
  tensorflow::DataType type;
  absl::InlinedVector<int64_t, 4> sizes;
  // Inputs whose memory it may take if nothing else needs it, the best first.
  absl::InlinedVector<int, 3> may_take;
  // The input that it is identical to, or -1 if it is computed.
  int is_input = -1;
};
using OutputSpecs = absl::InlinedVector<OutputSpec, 5>;

inline absl::InlinedVector<int64_t, 4> Sizes(const Dims& dims) {
  return {dims.size, dims.size + dims.rank};
}

// The memory of a call: a pointer for each input, and for each output that is computed.
struct Buffers {
  absl::Span<const void* const> inputs;
  absl::Span<void* const> outputs;

  template <typename T>
  const T* in(int i) const {
    return static_cast<const T*>(inputs[i]);
  }
  template <typename T>
  T* out(int i) const {
    return static_cast<T*>(outputs[i]);
  }
};

// The status of what a pass or a query of a device returns.
inline absl::Status RunStatus(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InternalError(error);
}

// The status of what a validator returns.
inline absl::Status ToStatus(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

// Reads the attributes of a node.
template <typename Context, typename Attrs>  // OpKernelConstruction or InferenceContext
absl::Status ReadAttrs(Context* ctx, Attrs* attrs) {
  return attrs->ForEach([&](const char* name, auto* value) { return ctx->GetAttr(name, value); });
}

// Bytes of scratch memory that RunOp asks for. `where`: a ParallelFor or a CudaQueue.
template <typename Op, typename Where>
int64_t WorkspaceBytes(const typename Op::Attrs& attrs, const typename Op::Shape& shape,
                       const Where& where) {
  return WithTypes(attrs, [&](auto t, auto tout) {
    using Tensors = typename Op::template Tensors<decltype(t), decltype(tout)>;
    return Plan<Tensors>(shape, where).workspace_bytes();
  });
}

// Plans and runs the pass of a valid call. allocate(bytes, &workspace) allocates scratch memory,
// aligned to 64 bytes, or returns an error.
template <typename Op, typename Where, typename Allocate>
absl::Status RunOp(const typename Op::Attrs& attrs, const typename Op::Shape& shape,
                   const Buffers& buffers, const Where& where, Allocate&& allocate) {
  return WithTypes(attrs, [&](auto t, auto tout) -> absl::Status {
    typename Op::template Tensors<decltype(t), decltype(tout)> tensors;
    const auto pass = Plan<decltype(tensors)>(shape, where);
    void* workspace = nullptr;
    TF_RETURN_IF_ERROR(allocate(pass.workspace_bytes(), &workspace));
    Op::SetTensors(shape, buffers, &tensors);
    return RunStatus(pass.Run(tensors, workspace, where));
  });
}

}  // namespace tfgn

#endif  // TFGN_OP_OP_H_
