// OptimizationBarrier: an op for the order of others, without kernels of its own.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tfgn {
namespace {

class OptimizationBarrier : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  // The executor calls it when both inputs are there.
  void Compute(tensorflow::OpKernelContext* ctx) override { ctx->set_output(0, ctx->input(0)); }
  bool IsExpensive() override { return false; }
};

REGISTER_OP("OptimizationBarrier")
    .Input("x: T")
    .Input("after: Tafter")
    .Output("y: T")
    .Attr("T: type")
    .Attr("Tafter: type")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      c->set_output(0, c->input(0));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Returns `x`, once `after` is computed.

What is computed of `y` is computed after `after`, and is not merged with the same computation of
`x`, neither by TensorFlow nor under `jit_compile=True`. A backward pass can so compute again what it
would otherwise have to keep.

x: What to return. It is not copied.
after: What to wait for. No gradient flows to it.
y: `x`.
)doc");

REGISTER_KERNEL_BUILDER(Name("OptimizationBarrier").Device(tensorflow::DEVICE_CPU),
                        OptimizationBarrier);
#if TFGN_WITH_CUDA
REGISTER_KERNEL_BUILDER(Name("OptimizationBarrier").Device(tensorflow::DEVICE_GPU),
                        OptimizationBarrier);
#endif

}  // namespace
}  // namespace tfgn
