// Scratch memory of a call, which the caller allocates.
#ifndef TFGN_KERNELS_SCRATCH_H_
#define TFGN_KERNELS_SCRATCH_H_

#include <cstdint>

namespace tfgn {

// Divides memory that is aligned to 64 bytes into pieces that are, too. Without memory, it counts
// the bytes.
class Scratch {
 public:
  explicit Scratch(void* memory = nullptr) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  T* Take(int64_t count) {
    const int64_t begin = used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + begin);
  }

  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

}  // namespace tfgn

#endif  // TFGN_KERNELS_SCRATCH_H_
