// An op (op_util.h) as a kernel of TensorFlow's executor.
#ifndef TFGN_TF_CPU_KERNEL_H_
#define TFGN_TF_CPU_KERNEL_H_

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/threadpool.h"
#include "tf/op_util.h"
#include "tf/threads.h"

namespace tfgn {

template <typename Op>
class CpuKernel : public tensorflow::OpKernel {
 public:
  explicit CpuKernel(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ReadAttrs(ctx, &attrs_));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const InputDims dims(ctx->num_inputs(),
                         [ctx](int i) { return ctx->input(i).shape().dim_sizes(); });
    typename Op::Shape shape;
    OP_REQUIRES_OK(ctx, Op::Validate(attrs_, dims, &shape));

    // An output may take the memory of an input, which is no input to `ctx` from then on.
    absl::InlinedVector<const void*, 7> inputs;
    for (int i = 0; i < ctx->num_inputs(); ++i) inputs.push_back(ctx->input(i).data());
    absl::InlinedVector<void*, 4> outputs;
    for (const OutputSpec& spec : Op::Outputs(attrs_, shape, dims)) {
      OP_REQUIRES_OK(ctx, Allocate(ctx, spec, &outputs));
    }
    tensorflow::Tensor workspace;
    const tensorflow::TensorShape bytes({Op::Workspace(attrs_, shape)});
    OP_REQUIRES_OK(ctx, ctx->allocate_temp(tensorflow::DT_INT8, bytes, &workspace));

    auto* pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
    Threads<tensorflow::thread::ThreadPool> threads{pool, pool->NumThreads()};
    Op::Run(attrs_, shape, {inputs, outputs, workspace.data()}, threads.Parallel());
  }

 private:
  // Adds the memory of the next output.
  static absl::Status Allocate(tensorflow::OpKernelContext* ctx, const OutputSpec& spec,
                               absl::InlinedVector<void*, 4>* outputs) {
    const int index = static_cast<int>(outputs->size());
    if (spec.is_input >= 0) {
      ctx->set_output(index, ctx->input(spec.is_input));
      outputs->push_back(nullptr);
      return absl::OkStatus();
    }
    tensorflow::TensorShape shape;
    TF_RETURN_IF_ERROR(tensorflow::TensorShape::BuildTensorShape(spec.sizes, &shape));
    tensorflow::Tensor* output;
    TF_RETURN_IF_ERROR(ctx->forward_input_or_allocate_output(spec.may_take, index, shape, &output));
    outputs->push_back(output->data());
    return absl::OkStatus();
  }

  typename Op::Attrs attrs_;
};

}  // namespace tfgn

#endif  // TFGN_TF_CPU_KERNEL_H_
