// What the shape functions of all ops (op/op.h) do.
#ifndef TFGN_TF_INFER_H_
#define TFGN_TF_INFER_H_

#include "op/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfgn {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// Makes `shape` that of input i.
inline void SetDims(int i, InferenceContext* c, ShapeHandle shape, InputDims* inputs) {
  // -1 stands for an unknown size here as there.
  inputs->Set(i, c->RankKnown(shape) ? c->Rank(shape) : kUnknownRank,
              [&](int j) { return c->Value(c->Dim(shape, j)); });
}

// What a shape function begins with. Fills *shape, and sets *known to all that is known of the
// shape of input `input`, also by the inputs `alike` that must have the same.
template <typename Op>
absl::Status Infer(InferenceContext* c, int input, absl::Span<const int> alike,
                   typename Op::Shape* shape, ShapeHandle* known) {
  typename Op::Attrs attrs;
  TF_RETURN_IF_ERROR(ReadAttrs(c, &attrs));
  InputDims inputs(c->num_inputs());
  for (int i = 0; i < c->num_inputs(); ++i) SetDims(i, c, c->input(i), &inputs);
  TF_RETURN_IF_ERROR(Op::Validate(attrs, inputs, shape));
  *known = c->input(input);
  for (const int other : alike) {
    TF_RETURN_IF_ERROR(c->Merge(*known, c->input(other), known));
    // What the other knows may be at odds with the attributes and with the other inputs.
    SetDims(input, c, *known, &inputs);
    TF_RETURN_IF_ERROR(Op::Validate(attrs, inputs, shape));
  }
  return absl::OkStatus();
}

}  // namespace tfgn

#endif  // TFGN_TF_INFER_H_
