// The part that the shape functions of all ops (op/op.h) share.
#ifndef TFGN_TF_INFER_H_
#define TFGN_TF_INFER_H_

#include "op/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfgn {

using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// Makes `shape` that of input i.
inline void SetDims(int i, InferenceContext* c, ShapeHandle shape, InputDims* inputs) {
  // Both use -1 for an unknown size.
  inputs->Set(i, c->RankKnown(shape) ? c->Rank(shape) : kUnknownRank,
              [&](int j) { return c->Value(c->Dim(shape, j)); });
}

// Validates the inputs of a shape function and fills *shape. Sets *known to what is known about the
// shape of input `input`, also from the inputs `alike`, which must have the same shape.
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
    // The merged shape may contradict the attributes or other inputs.
    SetDims(input, c, *known, &inputs);
    TF_RETURN_IF_ERROR(Op::Validate(attrs, inputs, shape));
  }
  return absl::OkStatus();
}

}  // namespace tfgn

#endif  // TFGN_TF_INFER_H_
