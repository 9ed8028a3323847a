// Runs kernels on a thread pool of TensorFlow or XLA.
#ifndef TFGN_OP_THREADS_H_
#define TFGN_OP_THREADS_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "kernels/parallel.h"
#include "op/wake_up.h"

namespace tfgn {

// Tasks that several threads claim until none is left.
class Job {
 public:
  Job(int64_t count, ParallelFor::Task task, void* arg) : count_(count), task_(task), arg_(arg) {}

  // Called by a thread of the pool before it works. Returns whether it is the first one.
  bool Begin() {
    const bool is_first = !has_begun_.exchange(true, std::memory_order_relaxed);
    if (is_first) begun_.Notify();
    return is_first;
  }
  void Work() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
      task_(arg_, i);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) finished_.Notify();
    }
  }
  // Whether a thread begins to work on it within `timeout`.
  bool BeginsWithin(absl::Duration timeout) {
    return begun_.WaitForNotificationWithTimeout(timeout);
  }
  // For a caller that sleeps while others work.
  void Wait() { finished_.WaitForNotification(); }
  // For a caller that has worked itself. The others are about to finish, mostly: sooner than this
  // thread would fall asleep and be woken.
  void WaitAwake() {
    for (int i = 0; i < 64; ++i) {
      if (done_.load(std::memory_order_acquire) == count_) return;
      std::this_thread::yield();
    }
    Wait();
  }

 private:
  const int64_t count_;
  const ParallelFor::Task task_;
  void* const arg_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::atomic<bool> has_begun_{false};
  absl::Notification begun_, finished_;
};

// The threads of a pool with a method `Schedule(f)`. If all of them are busy, or all in a call like
// this one, the calling thread works itself and waits only for tasks that a thread has begun.
template <typename Pool>
struct Threads {
  Pool* pool;
  int count;

  // REQUIRES: *this outlives the result.
  ParallelFor Parallel() { return {Run, this, count, wake_up_.BytesPerThread()}; }

 private:
  using Clock = std::chrono::steady_clock;

  static void Run(void* self, int64_t count, int64_t bytes, ParallelFor::Task task, void* arg) {
    // Linux may put the thread that a caller wakes on the caller's core. Measured: if the caller
    // works, that thread often does not start before everything is done. If it sleeps instead, it
    // has to be woken at the end, which pays off from about 2 MiB on, unless the thread was awake.
    // XLA calls from a thread of the pool, which is needed as a worker.
    const bool hands_over = bytes >= int64_t{2} << 20 && wake_up_.IsFromSleep() && !is_of_pool;
    const Threads& threads = *static_cast<const Threads*>(self);
    // Shared, because a helper may start after this call has returned and find no task left.
    const auto job = std::make_shared<Job>(count, task, arg);
    const int64_t helpers = std::min<int64_t>(threads.count, count) - (hands_over ? 0 : 1);
    const Clock::time_point woken = Clock::now();
    for (int64_t i = 0; i < helpers; ++i) {
      threads.pool->Schedule([job, woken] {
        is_of_pool = true;
        if (job->Begin()) wake_up_.Add(Clock::now() - woken);
        job->Work();
      });
    }
    if (!hands_over) {
      job->Work();
      job->WaitAwake();
      return;
    }
    if (!job->BeginsWithin(absl::Microseconds(200))) job->Work();
    job->Wait();
  }

  static inline WakeUp wake_up_;  // of all pools of this kind
  // Whether this thread has been a helper, so that it belongs to a pool.
  static inline thread_local bool is_of_pool = false;
};

}  // namespace tfgn

#endif  // TFGN_OP_THREADS_H_
