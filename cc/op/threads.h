// How kernels run on a thread pool of TensorFlow's, whoever hands it over.
#ifndef TFGN_OP_THREADS_H_
#define TFGN_OP_THREADS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "kernels/parallel.h"

namespace tfgn {

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

// The threads of a pool that has `Schedule(f)` and a number of threads. A pool whose threads are
// all busy, or all in a call like this one, delays nobody for long: the calling thread then works
// itself, and waits only for tasks that a thread has begun.
template <typename Pool>
struct Threads {
  Pool* pool;
  int count;

  // REQUIRES: this outlives what is returned.
  ParallelFor Parallel() { return {Run, this, count}; }

 private:
  static void Run(void* self, int64_t count, int64_t bytes, ParallelFor::Task task, void* arg) {
    // A caller that works keeps its core, where a scheduler may have put the thread that it woke:
    // measured, that thread then often does not start before all is done. A caller that sleeps
    // costs a wake-up at the end, which pays from some 2 MiB on. XLA calls from a thread of the
    // pool, which is one of those that have to work.
    const bool hands_over = bytes >= int64_t{2} << 20 && !is_of_pool;
    const Threads& threads = *static_cast<const Threads*>(self);
    // Shared, for a helper may start after this call has returned. It then finds no task left.
    const auto job = std::make_shared<Job>(count, task, arg);
    const int64_t helpers = std::min<int64_t>(threads.count, count) - (hands_over ? 0 : 1);
    for (int64_t i = 0; i < helpers; ++i) {
      threads.pool->Schedule([job] {
        is_of_pool = true;
        job->Work();
      });
    }
    if (!hands_over || !job->BeginsWithin(absl::Microseconds(200))) job->Work();
    job->Wait();
  }

  // Whether this thread is known to be one of a pool: it has been a helper.
  static inline thread_local bool is_of_pool = false;
};

}  // namespace tfgn

#endif  // TFGN_OP_THREADS_H_
