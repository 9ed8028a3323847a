#include "op/wake_up.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace tfgn {
namespace {

using std::chrono::microseconds;

// Of most calls: one in 64 is told a quarter.
int64_t BytesPerThread(WakeUp& wake_up) {
  return std::max(wake_up.BytesPerThread(), wake_up.BytesPerThread());
}

void Add(WakeUp& wake_up, microseconds time, int times) {
  for (int i = 0; i < times; ++i) wake_up.Add(time);
}

TEST(WakeUpTest, AsksForLessWorkWhereThreadsStartSooner) {
  WakeUp awake, asleep;
  Add(awake, microseconds(0), 100);
  Add(asleep, microseconds(30), 100);
  EXPECT_NEAR(BytesPerThread(awake), 500'000, 10'000);
  EXPECT_NEAR(BytesPerThread(asleep), 1'000'000, 10'000);
}

TEST(WakeUpTest, KnowsThreadsThatSleep) {
  WakeUp wake_up;
  Add(wake_up, microseconds(35), 100);
  EXPECT_TRUE(wake_up.IsFromSleep());
  Add(wake_up, microseconds(0), 100);
  EXPECT_FALSE(wake_up.IsFromSleep());
}

TEST(WakeUpTest, ForgetsABusyPool) {
  WakeUp wake_up;
  Add(wake_up, microseconds(1'000'000), 100);
  EXPECT_LE(BytesPerThread(wake_up), 1'000'000);
  Add(wake_up, microseconds(0), 100);
  EXPECT_NEAR(BytesPerThread(wake_up), 500'000, 10'000);
}

TEST(WakeUpTest, IsNotMovedFarByOneLateThread) {
  WakeUp wake_up;
  Add(wake_up, microseconds(0), 100);
  Add(wake_up, microseconds(1'000'000), 1);
  EXPECT_FALSE(wake_up.IsFromSleep());
}

TEST(WakeUpTest, TriesLessWorkInOneOf64Calls) {
  WakeUp wake_up;
  Add(wake_up, microseconds(35), 100);
  int tries = 0;
  for (int i = 0; i < 640; ++i) tries += wake_up.BytesPerThread() < 300'000;
  EXPECT_EQ(tries, 10);
}

}  // namespace
}  // namespace tfgn
