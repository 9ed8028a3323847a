// How work is shared among threads. Results do not depend on it: CpuPlan fixes what is summed with
// what.
#ifndef TFGN_KERNELS_CPU_STAGES_H_
#define TFGN_KERNELS_CPU_STAGES_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/cpu/cache.h"
#include "kernels/parallel.h"

namespace tfgn {

// f(n, begin, end) does items [begin, end) of sample n. Every sample has `items` items, each of
// which reads and writes about `bytes` bytes.
template <typename F>
struct Stage {
  int64_t items, bytes;
  F f;
};
template <typename F>
Stage(int64_t, int64_t, F) -> Stage<F>;

// Threads that go through the stages of a pass together and are woken once. All members call Share
// and Wait in the same order. The others do the work of a member that starts late or never, so
// nobody waits for a thread that does not run.
class Team {
 public:
  class Member;

  // All stages together read and write about `bytes` bytes.
  Team(const ParallelFor& parallel, int64_t bytes)
      : size_(parallel.ThreadsFor(bytes)), next_(size_) {}

  int size() const { return size_; }

 private:
  struct alignas(64) Counter {  // a cache line of its own
    std::atomic<int64_t> value{0};
  };

  const int size_;
  std::vector<Counter> next_;  // tasks begun, of all stages, by the member that they belong to
  Counter done_;               // tasks done
};

class Team::Member {
 public:
  Member(Team& team, int index) : team_(team), index_(index), base_(team.size_, 0) {}

  // Shares a stage of samples [first, first + count). A member first does its own part, which is
  // the same in every stage, so that its caches may hold the memory, and then what others have
  // left.
  template <typename F>
  void Share(const Stage<F>& stage, int64_t first, int64_t count) {
    constexpr int64_t kTaskBytes = 64 << 10;  // some 5 us, beside which claiming a task is cheap
    const int64_t items = count * stage.items;
    const int64_t grain = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, stage.bytes));
    const int64_t tasks = (items + grain - 1) / grain;
    int64_t done = 0;
    for (int i = 0; i < team_.size_; ++i) {
      const int owner = (index_ + i) % team_.size_;
      const int64_t first_task = tasks * owner / team_.size_;
      const int64_t end = base_[owner] + tasks * (owner + 1) / team_.size_ - first_task;
      for (int64_t k; (k = Claim(team_.next_[owner].value, end)) < end; ++done) {
        const int64_t begin = (first_task + k - base_[owner]) * grain;
        RunItems(stage, first, begin, std::min(items, begin + grain));
      }
      base_[owner] = end;
    }
    total_ += tasks;
    team_.done_.value.fetch_add(done, std::memory_order_acq_rel);
  }

  // Returns when everything shared so far is done.
  void Wait() const {
    for (int spins = 0; team_.done_.value.load(std::memory_order_acquire) < total_; ++spins) {
      if (spins > 256) std::this_thread::yield();
    }
  }

 private:
  // The next task before `end`, or a number that is not before `end`.
  static int64_t Claim(std::atomic<int64_t>& next, int64_t end) {
    int64_t k = next.load(std::memory_order_relaxed);
    while (k < end && !next.compare_exchange_weak(k, k + 1, std::memory_order_relaxed)) {
    }
    return k;
  }

  // Items [begin, end), counted from those of sample `first` on.
  template <typename F>
  static void RunItems(const Stage<F>& stage, int64_t first, int64_t begin, int64_t end) {
    for (int64_t stop; begin < end; begin = stop) {
      const int64_t n = begin / stage.items, start = n * stage.items;
      stop = std::min(end, start + stage.items);
      stage.f(first + n, begin - start, stop - start);
    }
  }

  Team& team_;
  const int index_;
  std::vector<int64_t> base_;  // tasks of earlier stages, by owner
  int64_t total_ = 0;
};

// What a task can read twice and find in the cache of its core the second time: half of it, because
// the output passes through it, too.
inline int64_t CachedBytes() { return L2CacheBytes() / 2; }

// Whether `count` pieces of work, which read `bytes` bytes each twice, make good tasks: each fits
// in the cache of a core, and there are enough for all threads.
inline bool AreTasks(const ParallelFor& parallel, int64_t count, int64_t bytes) {
  return bytes <= CachedBytes() && count >= 2 * parallel.threads();
}

// Runs the stages one after the other on waves of samples. A wave is as large as the caches of the
// threads, so that a stage finds there what the one before has read.
template <typename First, typename... Rest>
void RunStages(const ParallelFor& parallel, int64_t samples, int64_t sample_bytes,
               const Stage<First>& first_stage, const Stage<Rest>&... rest) {
  const int64_t bytes = 2 * samples * sample_bytes;
  Team team(parallel, bytes);
  const int64_t wave = std::clamp<int64_t>(
      team.size() * CachedBytes() / std::max<int64_t>(1, sample_bytes), 1, samples);
  parallel(team.size(), bytes, [&](int64_t index) {
    Team::Member member(team, static_cast<int>(index));
    for (int64_t first = 0; first < samples; first += wave) {
      const int64_t count = std::min(wave, samples - first);
      // The first stage does not wait: waves share nothing.
      member.Share(first_stage, first, count);
      [[maybe_unused]] const auto share_after_wait = [&](const auto& stage) {
        member.Wait();
        member.Share(stage, first, count);
      };
      (share_after_wait(rest), ...);
    }
  });
}

}  // namespace tfgn

#endif  // TFGN_KERNELS_CPU_STAGES_H_
