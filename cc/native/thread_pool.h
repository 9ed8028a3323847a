// Threads for the kernels outside of TensorFlow.
#ifndef TFGN_NATIVE_THREAD_POOL_H_
#define TFGN_NATIVE_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels/parallel.h"

namespace tfgn {

// `threads` threads, the calling one among them. They sleep between calls.
class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    if (threads < 1) {
      throw std::invalid_argument("threads must be at least 1, but is " + std::to_string(threads));
    }
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { Serve(); });
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  ~ThreadPool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  operator ParallelFor() {
    if (threads_.empty()) return {};
    // Little, so that tests share small tensors.
    constexpr int64_t kBytesPerThread = 64 << 10;
    return {Run, this, static_cast<int>(threads_.size()) + 1, kBytesPerThread};
  }

 private:
  struct Job {
    int64_t count;
    ParallelFor::Task task;
    void* arg;
    std::atomic<int64_t> next{0};

    Job(int64_t count, ParallelFor::Task task, void* arg) : count(count), task(task), arg(arg) {}
    void Work() {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(arg, i);
    }
  };

  static void Run(void* self, int64_t count, int64_t /*bytes*/, ParallelFor::Task task, void* arg) {
    ThreadPool& pool = *static_cast<ThreadPool*>(self);
    const std::lock_guard<std::mutex> one_call_at_a_time(pool.calls_);
    Job job(count, task, arg);
    {
      const std::lock_guard<std::mutex> lock(pool.mutex_);
      pool.job_ = &job;
      ++pool.number_;
    }
    pool.wake_.notify_all();
    job.Work();
    std::unique_lock<std::mutex> lock(pool.mutex_);
    pool.job_ = nullptr;
    pool.idle_.wait(lock, [&] { return pool.working_ == 0; });
  }

  void Serve() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || (job_ != nullptr && number_ != seen); });
      if (stop_) return;
      seen = number_;
      Job& job = *job_;
      ++working_;
      lock.unlock();
      job.Work();
      lock.lock();
      if (--working_ == 0) idle_.notify_one();
    }
  }

  std::mutex calls_, mutex_;
  std::condition_variable wake_, idle_;
  Job* job_ = nullptr;   // under mutex_, as all below
  uint64_t number_ = 0;  // of the job
  int working_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tfgn

#endif  // TFGN_NATIVE_THREAD_POOL_H_
