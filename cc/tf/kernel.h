// An op (op/op.h) as a kernel of TensorFlow's executor, an OpKernel.
#ifndef TFGN_TF_KERNEL_H_
#define TFGN_TF_KERNEL_H_

#include "op/op.h"
#include "op/threads.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/threadpool.h"
#if TFGN_WITH_CUDA
// TensorFlow 2.19's needs headers of LLVM that its wheel lacks.
#include "tensorflow/core/platform/stream_executor.h"
#endif

namespace tfgn {

// The intra-op threads of TensorFlow.
class Cpu {
 public:
  explicit Cpu(tensorflow::OpKernelContext* ctx) {
    threads_.pool = ctx->device()->tensorflow_cpu_worker_threads()->workers;
    threads_.count = threads_.pool->NumThreads();
  }
  absl::Status status() const { return absl::OkStatus(); }
  ParallelFor where() { return threads_.Parallel(); }

 private:
  Threads<tensorflow::thread::ThreadPool> threads_;
};

#if TFGN_WITH_CUDA
// The stream of TensorFlow for a GPU.
class Gpu {
 public:
  explicit Gpu(tensorflow::OpKernelContext* ctx) {
    queue_.stream = ctx->op_device_context()->stream()->platform_specific_handle().stream;
    status_ = RunStatus(QueryCudaDevice(&queue_.device));
  }
  absl::Status status() const { return status_; }
  const CudaQueue& where() const { return queue_; }

 private:
  CudaQueue queue_;
  absl::Status status_;
};
#endif

template <typename Op, typename Device>
class Kernel : public tensorflow::OpKernel {
 public:
  explicit Kernel(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ReadAttrs(ctx, &attrs_));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const InputDims dims(ctx->num_inputs(),
                         [ctx](int i) { return ctx->input(i).shape().dim_sizes(); });
    typename Op::Shape shape;
    OP_REQUIRES_OK(ctx, Op::Validate(attrs_, dims, &shape));

    // Read first: `ctx` no longer has an input whose memory an output has taken.
    absl::InlinedVector<const void*, 8> inputs;
    for (int i = 0; i < ctx->num_inputs(); ++i) inputs.push_back(ctx->input(i).data());
    absl::InlinedVector<void*, 5> outputs;
    for (const OutputSpec& spec : Op::Outputs(attrs_, shape, dims)) {
      OP_REQUIRES_OK(ctx, Allocate(ctx, spec, &outputs));
    }
    Device device(ctx);
    OP_REQUIRES_OK(ctx, device.status());
    tensorflow::Tensor workspace;
    const auto allocate = [&](int64_t bytes, void** data) {
      const absl::Status status =
          ctx->allocate_temp(tensorflow::DT_INT8, tensorflow::TensorShape({bytes}), &workspace);
      if (status.ok()) *data = workspace.data();
      return status;
    };
    OP_REQUIRES_OK(ctx, RunOp<Op>(attrs_, shape, {inputs, outputs}, device.where(), allocate));
  }

 private:
  // Appends the memory of the next output.
  static absl::Status Allocate(tensorflow::OpKernelContext* ctx, const OutputSpec& spec,
                               absl::InlinedVector<void*, 5>* outputs) {
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

#endif  // TFGN_TF_KERNEL_H_
