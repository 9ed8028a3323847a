// What it costs to wake a thread of a pool, as measured while the pool is used.
#ifndef TFGN_OP_WAKE_UP_H_
#define TFGN_OP_WAKE_UP_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace tfgn {

// A moving average of the time from a wake-up to the start of a thread. For any number of threads
// at once.
class WakeUp {
 public:
  // The work that is worth another thread: the bytes that a core reads and writes in its caches
  // until that thread has started and has fetched what it works on.
  int64_t BytesPerThread() const {
    // A quarter in a few calls: where all calls are small, an average that a busy moment has raised
    // would never fall again.
    thread_local uint32_t calls = 0;
    const int64_t bytes = std::min(kEnoughBytes, (Average() + kFetch) * kBytesPerNanosecond);
    return ++calls % 64 == 0 ? bytes / 4 : bytes;
  }

  // Whether threads sleep when they are woken. Those of TensorFlow and XLA look for work for a
  // while before they fall asleep, and start at once if they find some.
  bool IsFromSleep() const { return Average() > kAsleep; }

  // Takes a measured time into the average.
  void Add(std::chrono::nanoseconds time) {
    const int64_t average = Average(), bounded = std::min<int64_t>(time.count(), kLongest);
    // If two threads store at once, one of their times is lost, which does no harm.
    average_.store(average + (bounded - average) / 8, std::memory_order_relaxed);
  }

 private:
  int64_t Average() const { return average_.load(std::memory_order_relaxed); }

  // Of GroupNorm on float32 in the caches; a second thread that is awake pays from 0.8 to 1 MB on
  // (benchmarks/machines). All times are in nanoseconds.
  static constexpr int64_t kBytesPerNanosecond = 20, kFetch = 25'000;
  // However late threads start. A busy pool starts a task when it has finished others, which says
  // little of the next call.
  static constexpr int64_t kEnoughBytes = 1'000'000, kLongest = 50'000;
  // Measured averages: up to 10,000 awake, 25,000 to 45,000 asleep. In a chain of ops whose caller
  // sleeps, 15,000: the threads that wait for it fall asleep, too, and would not if it worked.
  static constexpr int64_t kAsleep = 25'000;

  std::atomic<int64_t> average_{10'000};
};

}  // namespace tfgn

#endif  // TFGN_OP_WAKE_UP_H_
