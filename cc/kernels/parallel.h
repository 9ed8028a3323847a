// How a kernel asks its caller for threads. The library owns no thread pool.
#ifndef TFGN_KERNELS_PARALLEL_H_
#define TFGN_KERNELS_PARALLEL_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace tfgn {

class ParallelFor {
 public:
  // Calls task(arg, i) once for every i in [0, count), in any order and on any threads, and returns
  // when all calls have returned. Together, they read and write about `bytes` bytes.
  using Task = void (*)(void* arg, int64_t i);
  using Runner = void (*)(void* pool, int64_t count, int64_t bytes, Task task, void* arg);

  // Serial.
  ParallelFor() = default;
  // `run` uses up to `threads` threads, each of which is worth waking for `bytes_per_thread` bytes
  // that are read or written. Results do not depend on either number.
  ParallelFor(Runner run, void* pool, int threads, int64_t bytes_per_thread)
      : run_(run), pool_(pool), threads_(threads), bytes_per_thread_(bytes_per_thread) {}

  int threads() const { return threads_; }
  // How many threads to use for work that reads and writes about `bytes` bytes.
  int ThreadsFor(int64_t bytes) const {
    return static_cast<int>(std::clamp<int64_t>(bytes / bytes_per_thread_, 1, threads_));
  }

  // f(i) for every i in [0, count).
  template <typename F>
  void operator()(int64_t count, int64_t bytes, F&& f) const {
    if (run_ == nullptr || threads_ < 2 || count < 2) {
      for (int64_t i = 0; i < count; ++i) f(i);
      return;
    }
    using Fn = std::remove_reference_t<F>;
    run_(
        pool_, count, bytes, [](void* arg, int64_t i) { (*static_cast<Fn*>(arg))(i); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  Runner run_ = nullptr;
  void* pool_ = nullptr;
  int threads_ = 1;
  int64_t bytes_per_thread_ = 1;
};

}  // namespace tfgn

#endif  // TFGN_KERNELS_PARALLEL_H_
