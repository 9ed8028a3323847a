// What every op's glue needs: TensorFlow's shapes, element types and threads, seen as the kernels'.
#ifndef TFGN_TF_OP_UTIL_H_
#define TFGN_TF_OP_UTIL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/container/inlined_vector.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "kernels/dims.h"
#include "kernels/dtypes.h"
#include "kernels/parallel.h"
#include "tensorflow/core/framework/bfloat16.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/platform/threadpool.h"

namespace tfgn {

// TensorFlow's name of an element type. Both have the same bits.
template <typename T>
struct TfTypeOf {
  using type = T;
};
template <>
struct TfTypeOf<float16> {
  using type = Eigen::half;
};
template <>
struct TfTypeOf<bfloat16> {
  using type = tensorflow::bfloat16;
};
template <typename T>
using TfType = typename TfTypeOf<T>::type;

template <typename T>
inline constexpr tensorflow::DataType kDataType = tensorflow::DataTypeToEnum<TfType<T>>::value;

// REQUIRES: tensor.dtype() == kDataType<T>.
template <typename T>
T* Data(const tensorflow::Tensor& tensor) {
  return static_cast<T*>(tensor.data());
}

// The sizes of every input of a node, owned.
class InputDims {
 public:
  explicit InputDims(tensorflow::OpKernelContext* ctx) : inputs_(ctx->num_inputs()) {
    for (int i = 0; i < ctx->num_inputs(); ++i) {
      inputs_[i].sizes = ctx->input(i).shape().dim_sizes();
      inputs_[i].rank = ctx->input(i).dims();
    }
  }

  explicit InputDims(tensorflow::shape_inference::InferenceContext* c) : inputs_(c->num_inputs()) {
    for (int i = 0; i < c->num_inputs(); ++i) {
      if (!c->RankKnown(c->input(i))) continue;
      inputs_[i].rank = c->Rank(c->input(i));
      for (int j = 0; j < inputs_[i].rank; ++j) {
        // -1 stands for an unknown size here as there.
        inputs_[i].sizes.push_back(c->Value(c->Dim(c->input(i), j)));
      }
    }
  }

  Dims operator[](int i) const { return {inputs_[i].sizes.data(), inputs_[i].rank}; }

 private:
  struct Input {
    absl::InlinedVector<int64_t, 4> sizes;
    int rank = kUnknownRank;
  };
  absl::InlinedVector<Input, 7> inputs_;
};

// Turns a validator's answer into a status.
inline absl::Status ToStatus(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

// Tasks that several threads take from one another until none is left.
class Job {
 public:
  Job(int64_t count, ParallelFor::Task task, void* arg) : count_(count), task_(task), arg_(arg) {}

  void Work() {
    if (!has_begun_.exchange(true, std::memory_order_relaxed)) begun_.Notify();
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      task_(arg_, i);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) finished_.Notify();
    }
  }
  // Whether a thread works on it before `timeout` is over.
  bool BeginsWithin(absl::Duration timeout) {
    return begun_.WaitForNotificationWithTimeout(timeout);
  }
  void Wait() { finished_.WaitForNotification(); }

 private:
  const int64_t count_;
  const ParallelFor::Task task_;
  void* const arg_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::atomic<bool> has_begun_{false};
  absl::Notification begun_, finished_;
};

// TensorFlow's intra-op threads. A pool whose threads are all busy, or all in a call like this one,
// delays nobody for long: the calling thread then works itself, and waits only for tasks that a
// thread has begun.
inline ParallelFor IntraOpThreads(tensorflow::OpKernelContext* ctx) {
  using tensorflow::thread::ThreadPool;
  const auto run = [](void* pool, int64_t count, int64_t bytes, ParallelFor::Task task, void* arg) {
    // A caller that works keeps its core, where a scheduler may have put the thread that it woke:
    // measured, that thread then often does not start before all is done. A caller that sleeps
    // costs a wake-up at the end, which pays from some 2 MiB on.
    const bool hands_over = bytes >= int64_t{2} << 20;
    ThreadPool* threads = static_cast<ThreadPool*>(pool);
    // Shared, for a helper may start after this call has returned. It then finds no task left.
    const auto job = std::make_shared<Job>(count, task, arg);
    const int64_t helpers = std::min<int64_t>(threads->NumThreads(), count) - (hands_over ? 0 : 1);
    for (int64_t i = 0; i < helpers; ++i) threads->Schedule([job] { job->Work(); });
    if (!hands_over || !job->BeginsWithin(absl::Microseconds(200))) job->Work();
    job->Wait();
  };
  ThreadPool* threads = ctx->device()->tensorflow_cpu_worker_threads()->workers;
  return {run, threads, threads->NumThreads()};
}

// Scratch memory of `bytes` bytes.
inline absl::Status AllocateWorkspace(tensorflow::OpKernelContext* ctx, int64_t bytes,
                                      tensorflow::Tensor* workspace) {
  return ctx->allocate_temp(tensorflow::DT_INT8, tensorflow::TensorShape({bytes}), workspace);
}

}  // namespace tfgn

#endif  // TFGN_TF_OP_UTIL_H_
