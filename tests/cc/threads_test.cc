#include "op/threads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace tfgn {
namespace {

constexpr int64_t kSmall = 1 << 20, kLarge = 4 << 20;  // bytes, around what a caller hands over

// Threads that start what is scheduled after a delay. `Test` makes it a type of its own, so that
// the averages of `Threads` are those of one test.
template <int Test>
class Pool {
 public:
  explicit Pool(int threads, std::chrono::microseconds delay = {}) {
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back([this, delay] {
        while (const std::function<void()> f = Next()) {
          if (delay.count() > 0) std::this_thread::sleep_for(delay);
          f();
        }
      });
    }
  }
  // Finishes what is scheduled.
  ~Pool() {
    Schedule(nullptr);
    for (std::thread& thread : threads_) thread.join();
  }

  void Schedule(std::function<void()> f) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(f));
    }
    scheduled_.notify_all();
  }

 private:
  // The end, which is empty, stays for the other threads.
  std::function<void()> Next() {
    std::unique_lock<std::mutex> lock(mutex_);
    scheduled_.wait(lock, [this] { return !queue_.empty(); });
    std::function<void()> f = queue_.front();
    if (f) queue_.pop_front();
    return f;
  }

  std::mutex mutex_;
  std::condition_variable scheduled_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
};

// Counts the calls of each task without a lock: a call that returns too early, or a task that two
// threads run, is a race. Each lasts long enough for others to begin.
template <typename Pool>
std::vector<int> CallsOf(Threads<Pool>& threads, int64_t count, int64_t bytes) {
  std::vector<int> calls(count);
  threads.Parallel()(count, bytes, [&](int64_t i) {
    std::this_thread::yield();
    ++calls[i];
  });
  return calls;
}

bool AreAllOne(const std::vector<int>& calls) {
  return std::all_of(calls.begin(), calls.end(), [](int n) { return n == 1; });
}

template <typename Pool>
void CallFromSeveralThreads(Pool& pool, int calls) {
  Threads<Pool> threads{&pool, 4};
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int i = 0; i < calls; ++i) {
        wrong += !AreAllOne(CallsOf(threads, 2 + i % 17, i % 2 ? kSmall : kLarge));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Threads, RunEveryTaskOnceBeforeTheCallReturns) {
  Pool<0> pool(3);
  CallFromSeveralThreads(pool, 5000);
}

TEST(Threads, RunEveryTaskOnceIfTheyStartLate) {
  using std::chrono::microseconds;
  for (const microseconds delay : {microseconds(60), microseconds(250)}) {
    Pool<1> pool(3, delay);
    CallFromSeveralThreads(pool, 300);
  }
}

TEST(Threads, LeaveLargeWorkToThreadsThatSleep) {
  Pool<2> pool(2, std::chrono::microseconds(60));
  Threads<Pool<2>> threads{&pool, 2};
  const auto caller = std::this_thread::get_id();
  const auto is_left = [&](int64_t bytes) {
    std::atomic<bool> is_left{true};
    threads.Parallel()(2, bytes, [&](int64_t) {
      if (std::this_thread::get_id() == caller) is_left = false;
    });
    return is_left.load();
  };
  // The first calls measure when threads start, and a busy machine may start any of them late.
  const auto is_ever_left = [&](int64_t bytes, bool expected) {
    for (int i = 0; i < 1000; ++i) {
      if (is_left(bytes) == expected) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // Then the threads sleep again.
    }
    return false;
  };
  EXPECT_TRUE(is_ever_left(kLarge, true));
  EXPECT_TRUE(is_ever_left(kSmall, false));
}

TEST(Threads, DoNotWaitForThoseThatNeverStart) {
  struct {
    std::vector<std::function<void()>> scheduled;
    void Schedule(std::function<void()> f) { scheduled.push_back(std::move(f)); }
    // They start when the call has returned, and find nothing to do.
    void Start() {
      std::thread([this] {
        for (const auto& f : scheduled) f();
      }).join();
      scheduled.clear();
    }
  } pool;
  Threads<decltype(pool)> threads{&pool, 4};
  const auto helpers_in_a_call = [&] {
    EXPECT_TRUE(AreAllOne(CallsOf(threads, 10, kLarge)));
    const size_t helpers = pool.scheduled.size();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    pool.Start();
    return helpers;
  };
  EXPECT_EQ(helpers_in_a_call(), 3u);  // The caller is the fourth.
  for (int i = 0; i < 20; ++i) helpers_in_a_call();
  EXPECT_EQ(helpers_in_a_call(), 4u);  // It has seen that threads start late.
}

TEST(Threads, WorkIfAllOfThemCall) {
  Pool<3> pool(2);
  Threads<Pool<3>> threads{&pool, 2};
  for (int i = 0; i < 200; ++i) {
    std::vector<std::vector<int>> calls(4);
    threads.Parallel()(4, kLarge, [&](int64_t i) { calls[i] = CallsOf(threads, 5, kLarge); });
    EXPECT_TRUE(std::all_of(calls.begin(), calls.end(), AreAllOne));
  }
}

}  // namespace
}  // namespace tfgn
