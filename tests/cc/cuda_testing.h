// Buffers of every element type, for tests of the CUDA kernels.
#ifndef TFGN_TESTS_CUDA_TESTING_H_
#define TFGN_TESTS_CUDA_TESTING_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>

#include "kernels/cuda/group_norm.h"
#include "kernels/cuda/standardize_weights.h"

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
// One rounding of the arithmetic, relative. For double, twice as much: the reference rounds, too.
template <typename T>
double Arithmetic() {
  return std::is_same_v<T, double> ? 0x1p-51 : 0x1p-24;
}

// Memory of `count` elements, `offset` elements past an address that is aligned as CUDA's are. The
// memory around them is filled, and out of bounds for AddressSanitizer.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count, int offset = 0)
      : count_(count), before_(offset * sizeof(T)), bytes_(count * sizeof(T)) {
    size_ = (before_ + bytes_ + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
    memory_ = static_cast<char*>(std::aligned_alloc(kAlignment, size_));
    std::memset(memory_, kFill, size_);
    Protect(true);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    Protect(false);
    std::free(memory_);
  }

  T* data() { return reinterpret_cast<T*>(memory_ + before_); }
  T& operator[](int64_t i) { return data()[i]; }
  int64_t size() const { return count_; }

  // Whether nothing before or after the elements was written.
  bool Intact() const {
    Protect(false);
    bool intact = true;
    for (size_t i = 0; i < size_; ++i) {
      const bool outside = i < before_ || i >= before_ + bytes_;
      if (outside && memory_[i] != kFill) intact = false;
    }
    Protect(true);
    return intact;
  }

 private:
  static constexpr size_t kAlignment = 256;
  static constexpr char kFill = 0x7F;

  void Protect(bool on) const {
    ASAN_UNPOISON_MEMORY_REGION(memory_, size_);
    if (!on) return;
    ASAN_POISON_MEMORY_REGION(memory_, before_);
    ASAN_POISON_MEMORY_REGION(memory_ + before_ + bytes_, size_ - before_ - bytes_);
  }

  int64_t count_;
  size_t before_, bytes_, size_;
  char* memory_;
};

// x = offset + noise.
template <typename T>
void Fill(Buffer<T>* buffer, std::mt19937* random, double offset = 0) {
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < buffer->size(); ++i) Set(offset + normal(*random), &(*buffer)[i]);
}

// The norm of an error, relative to that of the reference.
struct RelativeError {
  double error = 0, expected = 0;

  void Add(double actual, double reference) { Add(actual, reference, reference); }
  // Relative to a term of the reference, where the terms cancel.
  void Add(double actual, double reference, double term) {
    error += (actual - reference) * (actual - reference);
    expected += term * term;
  }
  double value() const { return expected > 0 ? std::sqrt(error / expected) : std::sqrt(error); }
};

// With AddressSanitizer, small cases only: it runs in every test.
#ifdef __SANITIZE_ADDRESS__
inline constexpr int64_t kMaxElements = 2000;
#else
inline constexpr int64_t kMaxElements = 1 << 19;
#endif

// Devices on which plans differ: a part is held by a block or by a cluster, or is read twice, in
// one launch or in two.
inline const CudaDevice kDevices[] = {{90, 2, 227 << 10, 228 << 10, 50 << 20},
                                      {90, 64, 227 << 10, 228 << 10, 50 << 20},
                                      {75, 24, 64 << 10, 64 << 10, 4 << 20},
                                      {90, 8, 49 << 10, 50 << 10, 1 << 10}};

// Plans a pass and runs it. Returns "" or an error.
template <typename Shape, typename Tensors>
std::string RunPlanned(const Shape& shape, const Tensors& tensors, const CudaDevice& device) {
  const CudaQueue queue{device};
  const auto pass = Plan<Tensors>(shape, queue);
  Buffer<char> workspace(pass.workspace_bytes());
  std::string error = pass.Run(tensors, workspace.data(), queue);
  EXPECT_TRUE(workspace.Intact());
  return error;
}

}  // namespace tfgn

#endif  // TFGN_TESTS_CUDA_TESTING_H_
