// An op (op/op.h) under XLA: lowered to a custom call that has the operands, results and
// attributes of the op, and a handler that runs the op's kernel on them.
//
//   operands   the inputs of the op; then, where a size of the batch is known at run time only,
//              that size
//   results    the outputs of the op, without those that are an input; then the workspace
//
// The handler trusts nothing: it validates what it is called with as the op itself does.
#ifndef TFGN_XLA_CUSTOM_CALL_H_
#define TFGN_XLA_CUSTOM_CALL_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/casts.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "op/op.h"
#include "op/threads.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/ffi/api/ffi.h"
#include "xla/lowering.h"

namespace tfgn {

namespace ffi = ::xla::ffi;

// Writes the attributes of an op as those of a custom call, a dictionary attribute of MLIR.
class AttrsToMlir {
 public:
  absl::Status operator()(const char* name, const int64_t* value) {
    return Add(name, absl::StrCat(*value, " : i64"));
  }
  // The bits, so that the value is read back exactly.
  absl::Status operator()(const char* name, const float* value) {
    return Add(name, absl::StrFormat("0x%08X : f32", absl::bit_cast<uint32_t>(*value)));
  }
  // REQUIRES: no character of *value is escaped in MLIR. Strings that Validate accepts have none.
  absl::Status operator()(const char* name, const std::string* value) {
    return Add(name, absl::StrCat("\"", *value, "\""));
  }
  absl::Status operator()(const char* name, const std::vector<int64_t>* value) {
    return Add(name, value->empty()
                         ? "array<i64>"
                         : absl::StrCat("array<i64: ", absl::StrJoin(*value, ", "), ">"));
  }
  absl::Status operator()(const char* name, const tensorflow::DataType* value) {
    return Add(name, absl::StrCat(static_cast<int32_t>(*value), " : i32"));
  }

  std::string dictionary() const { return absl::StrCat("{", absl::StrJoin(entries_, ", "), "}"); }

 private:
  absl::Status Add(const char* name, std::string_view value) {
    entries_.push_back(absl::StrCat(name, " = ", value));
    return absl::OkStatus();
  }
  std::vector<std::string> entries_;
};

// Reads the attributes of an op from those of a custom call.
class AttrsFromCall {
 public:
  explicit AttrsFromCall(ffi::Dictionary attrs) : attrs_(attrs) {}

  absl::Status operator()(const char* name, int64_t* value) { return Get<int64_t>(name, value); }
  absl::Status operator()(const char* name, float* value) { return Get<float>(name, value); }
  absl::Status operator()(const char* name, std::string* value) {
    return Get<std::string_view>(name, value);
  }
  absl::Status operator()(const char* name, std::vector<int64_t>* value) {
    ffi::Span<const int64_t> values;
    TF_RETURN_IF_ERROR(Get<ffi::Span<const int64_t>>(name, &values));
    value->assign(values.begin(), values.end());
    return absl::OkStatus();
  }
  absl::Status operator()(const char* name, tensorflow::DataType* value) {
    int32_t type = 0;
    TF_RETURN_IF_ERROR(Get<int32_t>(name, &type));
    *value = static_cast<tensorflow::DataType>(type);
    return absl::OkStatus();
  }

 private:
  template <typename Stored, typename Value>
  absl::Status Get(const char* name, Value* value) {
    const ffi::ErrorOr<Stored> stored = attrs_.get<Stored>(name);
    if (stored.has_error()) return absl::InvalidArgumentError(stored.error().message());
    *value = Value(*stored);
    return absl::OkStatus();
  }
  ffi::Dictionary attrs_;
};

// The buffers of a custom call. If the batch has a bound, sizes are those of the actual batch.
class CallBuffers {
 public:
  // `has_batch`: whether the size of the batch may follow the inputs.
  absl::Status TakeInputs(const ffi::RemainingArgs& args, const InputTypes& types, bool has_batch);
  InputDims dims() const;
  absl::Status TakeOutputs(const ffi::RemainingRets& results, const OutputSpecs& specs);
  Buffers buffers() const { return {inputs_, outputs_}; }
  // The memory of the last result, of which `bytes` bytes are needed.
  absl::Status TakeWorkspace(int64_t bytes, void** workspace) const;

 private:
  absl::InlinedVector<absl::Span<const int64_t>, 8> sizes_;
  std::optional<int64_t> batch_;
  absl::InlinedVector<const void*, 8> inputs_;
  absl::InlinedVector<void*, 5> outputs_;
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
};

// A custom call after validation.
template <typename Op>
struct CheckedCall {
  typename Op::Attrs attrs;
  typename Op::Shape shape;
  CallBuffers buffers;

  // `has_batch`: as for TakeInputs.
  absl::Status Check(const ffi::RemainingArgs& args, const ffi::RemainingRets& results,
                     const ffi::Dictionary& dictionary, bool has_batch) {
    TF_RETURN_IF_ERROR(attrs.ForEach(AttrsFromCall(dictionary)));
    TF_RETURN_IF_ERROR(buffers.TakeInputs(args, Op::TypesOfInputs(attrs), has_batch));
    const InputDims dims = buffers.dims();
    TF_RETURN_IF_ERROR(Op::Validate(attrs, dims, &shape));
    return buffers.TakeOutputs(results, Op::Outputs(attrs, shape, dims));
  }
};

inline ffi::Error ToFfiError(const absl::Status& status) {
  if (status.ok()) return ffi::Error::Success();
  return {static_cast<ffi::ErrorCode>(status.code()), std::string(status.message())};
}

// Runs an op on XLA's threads.
template <typename Op>
XLA_FFI_Error* HostHandler(XLA_FFI_CallFrame* frame) {
  static const auto* handler =
      ffi::Ffi::Bind()
          .Ctx<ffi::ThreadPool>()
          .RemainingArgs()
          .RemainingRets()
          .Attrs()
          .To([](ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets results,
                 ffi::Dictionary attrs) {
            Threads<ffi::ThreadPool> threads{&pool, static_cast<int>(pool.num_threads())};
            const ParallelFor parallel = threads.Parallel();
            CheckedCall<Op> call;
            absl::Status status = call.Check(args, results, attrs, Op::kHasBatch);
            if (status.ok()) {
              status = RunOp<Op>(call.attrs, call.shape, call.buffers.buffers(), parallel,
                                 [&](int64_t bytes, void** workspace) {
                                   return call.buffers.TakeWorkspace(bytes, workspace);
                                 });
            }
            return ToFfiError(status);
          })
          .release();
  return handler->Call(frame);
}

template <typename Op>
absl::Status ExecuteOnCuda(void* stream, ffi::ScratchAllocator* scratch,
                           const ffi::RemainingArgs& args, const ffi::RemainingRets& results,
                           const ffi::Dictionary& attrs) {
  CheckedCall<Op> call;
  TF_RETURN_IF_ERROR(call.Check(args, results, attrs, /*has_batch=*/false));
  CudaQueue queue{{}, stream};
  TF_RETURN_IF_ERROR(RunStatus(QueryCudaDevice(&queue.device)));
  const auto allocate = [scratch](int64_t bytes, void** workspace) -> absl::Status {
    if (bytes == 0) return absl::OkStatus();
    const std::optional<void*> memory = scratch->Allocate(bytes, kWorkspaceAlignment);
    if (!memory) {
      return absl::ResourceExhaustedError(absl::StrCat(bytes, " bytes of scratch memory"));
    }
    *workspace = *memory;
    return absl::OkStatus();
  };
  return RunOp<Op>(call.attrs, call.shape, call.buffers.buffers(), queue, allocate);
}

// Runs an op on XLA's stream. The workspace is allocated then, because it depends on the device.
template <typename Op>
XLA_FFI_Error* CudaHandler(XLA_FFI_CallFrame* frame) {
  static const auto* handler =
      ffi::Ffi::Bind()
          .Ctx<ffi::PlatformStream<void*>>()
          .Ctx<ffi::ScratchAllocator>()
          .RemainingArgs()
          .RemainingRets()
          .Attrs()
          .To([](void* stream, ffi::ScratchAllocator scratch, ffi::RemainingArgs args,
                 ffi::RemainingRets results, ffi::Dictionary attrs) {
            return ToFfiError(ExecuteOnCuda<Op>(stream, &scratch, args, results, attrs));
          })
          .release();
  return handler->Call(frame);
}

template <typename Op, bool kOnGpu>
tensorflow::OpKernel* CreateLowering(tensorflow::OpKernelConstruction* ctx) {
  typename Op::Attrs attrs;
  ctx->SetStatus(ReadAttrs(ctx, &attrs));
  // On a GPU, the handler runs on the host and cannot read a size in device memory.
  return NewLowering(ctx, Op::kHasBatch && !kOnGpu,
                     [attrs](const InputDims& inputs, CustomCall* call) mutable -> absl::Status {
                       typename Op::Shape shape;
                       TF_RETURN_IF_ERROR(Op::Validate(attrs, inputs, &shape));
                       AttrsToMlir mlir;
                       TF_RETURN_IF_ERROR(attrs.ForEach(mlir));
                       *call = {mlir.dictionary(), Op::Outputs(attrs, shape, inputs),
                                kOnGpu ? 0 : WorkspaceBytes<Op>(attrs, shape, ParallelFor())};
                       return absl::OkStatus();
                     });
}

// How an op is compiled for a device of XLA's bridge, and the handler that runs it on a platform,
// or null if it needs none.
struct Registration {
  const char* jit_device;
  const char* platform;
  tensorflow::OpKernel* (*create)(tensorflow::OpKernelConstruction*);
  XLA_FFI_Handler* handler;
};
// Returns true.
bool Register(const char* name, const Registration& registration);

template <typename Op>
bool Register(const char* name) {
  Register(name, {"XLA_CPU_JIT", "Host", CreateLowering<Op, false>, HostHandler<Op>});
#if TFGN_WITH_CUDA
  Register(name, {"XLA_GPU_JIT", "CUDA", CreateLowering<Op, true>, CudaHandler<Op>});
#endif
  return true;
}

}  // namespace tfgn

#endif  // TFGN_XLA_CUSTOM_CALL_H_
