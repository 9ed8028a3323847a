// How work goes to threads. None of it changes a result: what is summed with what is fixed by
// Layout.
#ifndef TFGN_KERNELS_SCHEDULE_H_
#define TFGN_KERNELS_SCHEDULE_H_

#include <algorithm>
#include <cstdint>

#include "kernels/normalize.h"
#include "kernels/parallel.h"

namespace tfgn {

// What a task may read twice and find in the L2 of its core the second time: half of 1 MiB, as the
// output passes through as well.
inline constexpr int64_t kCacheBytes = 512 << 10;

// Whole groups of one sample, by columns, as the work of one task.
struct Span {
  int64_t groups;      // per span
  int64_t count;       // per sample
  int64_t bytes;       // of x, per span
  bool fits_in_cache;  // else no span does, or too few tasks would come of it
};

inline Span ChooseSpan(const Normalization& p, const Layout& layout, int64_t element_bytes,
                       int threads) {
  const auto span_of = [&](int64_t groups) {
    const int64_t bytes = groups * p.group_size() * element_bytes;
    return Span{groups, (p.groups + groups - 1) / groups, bytes, bytes <= kCacheBytes};
  };
  Span whole = span_of(p.groups);
  if (whole.fits_in_cache && p.n >= threads) return whole;
  if (layout.fold > 1) {  // a folded row holds every group, so it cannot be cut
    whole.fits_in_cache = false;
    return whole;
  }

  // Reads of less than this many neighbours waste cache lines and prefetches.
  constexpr int64_t kNeighbours = 64;
  const int64_t group_cols = p.channels_per_group() * p.b;
  const int64_t narrowest = std::min(p.groups, (kNeighbours + group_cols - 1) / group_cols);
  for (int64_t groups = p.groups; groups > narrowest; groups = (groups + 1) / 2) {
    const Span span = span_of(groups);
    if (span.fits_in_cache && p.n * span.count >= threads) return span;
  }
  Span span = span_of(narrowest);
  span.fits_in_cache = span.fits_in_cache && p.n * span.count >= threads;
  return span;
}

// f(i) for every i in [0, count), neighbours together in tasks that are worth a thread. `bytes` is
// what one call reads and writes, about.
template <typename F>
void ParallelRanges(const ParallelFor& parallel, int64_t count, int64_t bytes, F&& f) {
  constexpr int64_t kTaskBytes = 128 << 10;
  const int64_t per_task = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, bytes));
  parallel((count + per_task - 1) / per_task, per_task * bytes, [&](int64_t task) {
    const int64_t end = std::min(count, (task + 1) * per_task);
    for (int64_t i = task * per_task; i < end; ++i) f(i);
  });
}

}  // namespace tfgn

#endif  // TFGN_KERNELS_SCHEDULE_H_
