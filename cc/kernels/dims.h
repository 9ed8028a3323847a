// The sizes of a tensor, which may be unknown in a shape function.
#ifndef TFGN_KERNELS_DIMS_H_
#define TFGN_KERNELS_DIMS_H_

#include <cstdint>
#include <string>

namespace tfgn {

inline constexpr int64_t kUnknownDim = -1;
inline constexpr int kUnknownRank = -1;

// A view of `rank` sizes. The caller owns them.
struct Dims {
  const int64_t* size = nullptr;
  int rank = kUnknownRank;

  bool has_rank() const { return rank != kUnknownRank; }
  int64_t operator[](int i) const { return size[i]; }
};

// "[2,?,64]", or "<unknown>".
std::string ToString(const Dims& dims);

// Whether two sizes can be the same: equal, or either unknown.
inline bool Compatible(int64_t a, int64_t b) {
  return a == b || a == kUnknownDim || b == kUnknownDim;
}
bool Compatible(const Dims& a, const Dims& b);

// a * b, or the largest int64 if that is more, which no tensor has unless another size is 0.
// REQUIRES: a and b are not negative.
int64_t SaturatingProduct(int64_t a, int64_t b);

// Product of size[begin, end), saturating; kUnknownDim if a factor is unknown and none is 0.
int64_t Product(const Dims& dims, int begin, int end);

}  // namespace tfgn

#endif  // TFGN_KERNELS_DIMS_H_
