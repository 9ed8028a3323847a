// RunStages does every item once, and no stage begins before the one before is done, in any order
// of threads.
#include "kernels/cpu/stages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "native/thread_pool.h"

namespace tfgn {
namespace {

// Runs three stages of `items` per sample and checks their order within each sample.
void CheckStages(const ParallelFor& parallel, int64_t samples, int64_t items) {
  constexpr int64_t kSampleBytes = 300 << 10;  // some samples to a wave
  std::vector<std::atomic<int>> times(samples * items);
  std::vector<std::atomic<int64_t>> done(samples);
  std::atomic<int> violations{0};
  const auto stage = [&](int64_t before, int64_t bytes) {
    return Stage{items, bytes, [&, before](int64_t n, int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     if (done[n] < before * items) ++violations;
                     ++times[n * items + i];
                   }
                   done[n] += end - begin;
                 }};
  };
  // Tasks of one item, of several, and of a whole sample.
  RunStages(parallel, samples, kSampleBytes, stage(0, kSampleBytes), stage(1, 20000), stage(2, 1));
  EXPECT_EQ(violations, 0);
  EXPECT_TRUE(std::all_of(times.begin(), times.end(), [](const auto& t) { return t == 3; }));
}

TEST(Stages, EveryItemOnceInOrder) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int64_t samples : {1, 2, 7, 40}) {
      for (int64_t items : {1, 2, 5, 64}) CheckStages(pool, samples, items);
    }
  }
}

TEST(Stages, MembersThatRunOneAfterAnother) {
  const auto one_by_one = [](void*, int64_t count, int64_t, ParallelFor::Task task, void* arg) {
    for (int64_t i = count - 1; i >= 0; --i) task(arg, i);
  };
  CheckStages(ParallelFor(one_by_one, nullptr, 8, 1 << 16), 7, 5);
}

TEST(Stages, SmallWorkStaysOnTheCallingThread) {
  const auto never = [](void*, int64_t, int64_t, ParallelFor::Task, void*) { FAIL(); };
  int calls = 0;
  RunStages(ParallelFor(never, nullptr, 8, 1 << 16), 1, 1000,
            Stage{1, 1000, [&](int64_t, int64_t, int64_t) { ++calls; }});
  EXPECT_EQ(calls, 1);
}

TEST(ThreadPool, IsSharedByCallers) {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 20; ++round) CheckStages(pool, 3, 4);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

}  // namespace
}  // namespace tfgn
