// Numbers in memory of every element type, for tests of the CUDA kernels.
#ifndef TFGN_TESTS_CUDA_TESTING_H_
#define TFGN_TESTS_CUDA_TESTING_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>

#include "kernels/cuda_device.h"
#include "kernels/dtypes.h"

namespace tfgn {

inline double ToDouble(double v) { return v; }
inline double ToDouble(float v) { return v; }
inline double ToDouble(float16 v) { return __half2float({v.bits}); }
inline double ToDouble(bfloat16 v) { return __uint_as_float(static_cast<unsigned>(v.bits) << 16); }
inline void Set(double v, double* to) { *to = v; }
inline void Set(double v, float* to) { *to = static_cast<float>(v); }
inline void Set(double v, float16* to) { to->bits = __float2half_rn(static_cast<float>(v)).bits; }
inline void Set(double v, bfloat16* to) {
  to->bits = static_cast<uint16_t>((__float_as_uint(static_cast<float>(v)) + 0x8000) >> 16);
}

// One rounding to T, relative.
template <typename T>
double Rounding() {
  return std::is_same_v<T, float16> ? 0x1p-11 : std::is_same_v<T, bfloat16> ? 0x1p-8 : 0;
}
// Of the arithmetic. The reference's own is as large as that of double.
template <typename T>
double Arithmetic() {
  return std::is_same_v<T, double> ? 0x1p-51 : 0x1p-24;
}

// Memory of exactly `count` elements, as aligned as CUDA's, less `offset` elements.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count, int offset = 0) : count_(count), offset_(offset) {
    const size_t bytes = (static_cast<size_t>(count + offset) * sizeof(T) + 255) / 256 * 256;
    bytes_.reset(static_cast<char*>(std::aligned_alloc(256, bytes + 256)));
    std::memset(bytes_.get(), 0x7F, bytes + 256);
    size_ = bytes + 256;
  }
  T* data() { return reinterpret_cast<T*>(bytes_.get()) + offset_; }
  T& operator[](int64_t i) { return data()[i]; }
  int64_t size() const { return count_; }

  // Whether nothing before or behind the elements was written.
  bool Intact() const {
    const size_t begin = offset_ * sizeof(T), end = begin + count_ * sizeof(T);
    for (size_t i = 0; i < size_; ++i) {
      if ((i < begin || i >= end) && bytes_.get()[i] != 0x7F) return false;
    }
    return true;
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> bytes_;
  int64_t count_;
  int offset_;
  size_t size_;
};

// x = offset + noise.
template <typename T>
void Fill(Buffer<T>* buffer, std::mt19937* random, double offset = 0) {
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < buffer->size(); ++i) Set(offset + normal(*random), &(*buffer)[i]);
}

// The norm of an error, relative to that of what was expected.
struct RelativeError {
  double error = 0, expected = 0;

  void Add(double actual, double reference) {
    error += (actual - reference) * (actual - reference);
    expected += reference * reference;
  }
  double value() const { return expected > 0 ? std::sqrt(error / expected) : std::sqrt(error); }
};

// Devices that make the plans differ: a slab in one block, in a cluster, in two launches, not held.
inline const CudaDevice kDevices[] = {{90, 2, 227 << 10, 228 << 10, 50 << 20},
                                      {90, 64, 227 << 10, 228 << 10, 50 << 20},
                                      {75, 24, 64 << 10, 64 << 10, 4 << 20},
                                      {90, 8, 49 << 10, 50 << 10, 1 << 10}};

}  // namespace tfgn

#endif  // TFGN_TESTS_CUDA_TESTING_H_
