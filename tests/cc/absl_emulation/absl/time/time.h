// Abseil's durations, as far as cc/op/threads.h uses them, on the standard library.
#ifndef TFGN_TESTS_ABSL_TIME_H_
#define TFGN_TESTS_ABSL_TIME_H_

#include <chrono>

namespace absl {

using Duration = std::chrono::nanoseconds;
inline Duration Microseconds(int n) { return std::chrono::microseconds(n); }

}  // namespace absl

#endif  // TFGN_TESTS_ABSL_TIME_H_
