// The caches of the machine.
#ifndef TFGN_KERNELS_CPU_CACHE_H_
#define TFGN_KERNELS_CPU_CACHE_H_

#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace tfgn {

// Bytes of the L2 cache of a core; 1 MiB, as server cores have, where the system does not say. A
// virtual machine may say anything, hence the bounds.
inline int64_t L2CacheBytes() {
  static const int64_t bytes = [] {
    int64_t reported = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return reported <= 0 ? int64_t{1} << 20 : std::clamp<int64_t>(reported, 256 << 10, 4 << 20);
  }();
  return bytes;
}

}  // namespace tfgn

#endif  // TFGN_KERNELS_CPU_CACHE_H_
