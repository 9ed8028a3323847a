// How work goes to threads. None of it changes a result: what is summed with what is fixed by
// CpuPlan.
#ifndef TFGN_KERNELS_CPU_STAGES_H_
#define TFGN_KERNELS_CPU_STAGES_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/parallel.h"

namespace tfgn {

// f(n, begin, end) for ranges that make up [0, items) of every sample n. `bytes`: what an item
// reads and writes, about.
template <typename F>
struct Stage {
  int64_t items, bytes;
  F f;
};
template <typename F>
Stage(int64_t, int64_t, F) -> Stage<F>;

// Threads that go through the stages of a pass together, for one wake-up. Every member calls Share
// and Wait in the same order. A member that starts late, or when all is done, finds its work taken
// by the others: none ever waits for one that does not run.
class Team {
 public:
  class Member;

  // `bytes`: what all stages read and write, about.
  Team(const ParallelFor& parallel, int64_t bytes)
      // Waking a thread costs some 5 us, in which one core moves about 64 KiB.
      : size_(static_cast<int>(std::clamp<int64_t>(bytes >> 16, 1, parallel.threads()))),
        next_(size_) {}

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

  // Shares a stage of samples [first, first + count). A member begins with its own part, the same
  // part of every stage, whose memory its caches may hold, and then takes what others have left.
  template <typename F>
  void Share(const Stage<F>& stage, int64_t first, int64_t count) {
    constexpr int64_t kTaskBytes = 64 << 10;
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

  // Returns when all that was shared so far is done.
  void Wait() const {
    for (int spins = 0; team_.done_.value.load(std::memory_order_acquire) < total_; ++spins) {
      if (spins > 256) std::this_thread::yield();
    }
  }

 private:
  // The next task before `end`, or a number that is not.
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

// What a task may read twice and find in the L2 of its core the second time: half of the 1 MiB that
// a server's has, as the output passes through as well.
inline constexpr int64_t kCacheBytes = 512 << 10;

// Whether `count` things of `bytes` each, which are read twice, are tasks as they are: each fits in
// the cache of a core, and there are enough to share.
inline bool AreTasks(const ParallelFor& parallel, int64_t count, int64_t bytes) {
  return bytes <= kCacheBytes && count >= 2 * parallel.threads();
}

// The stages, one after the other, for waves of samples: as many at a time as the caches of the
// threads hold, so that a stage finds there what the one before has read.
template <typename First, typename... Rest>
void RunStages(const ParallelFor& parallel, int64_t samples, int64_t sample_bytes,
               const Stage<First>& first_stage, const Stage<Rest>&... rest) {
  const int64_t bytes = 2 * samples * sample_bytes;
  Team team(parallel, bytes);
  const int64_t wave = std::clamp<int64_t>(
      team.size() * kCacheBytes / std::max<int64_t>(1, sample_bytes), 1, samples);
  parallel(team.size(), bytes, [&](int64_t index) {
    Team::Member member(team, static_cast<int>(index));
    for (int64_t first = 0; first < samples; first += wave) {
      const int64_t count = std::min(wave, samples - first);
      // A wave does not wait for the last stage of the one before: they share nothing.
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
