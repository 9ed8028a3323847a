#include "kernels/dims.h"

#include <limits>

namespace tfgn {

std::string ToString(const Dims& dims) {
  if (!dims.has_rank()) return "<unknown>";
  std::string text = "[";
  for (int i = 0; i < dims.rank; ++i) {
    if (i > 0) text += ',';
    text += dims[i] == kUnknownDim ? "?" : std::to_string(dims[i]);
  }
  return text + "]";
}

bool Compatible(const Dims& a, const Dims& b) {
  if (!a.has_rank() || !b.has_rank()) return true;
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; ++i) {
    if (!Compatible(a[i], b[i])) return false;
  }
  return true;
}

int64_t SaturatingProduct(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

int64_t Product(const Dims& dims, int begin, int end) {
  int64_t product = 1;
  bool unknown = false;
  for (int i = begin; i < end; ++i) {
    if (dims[i] == 0) return 0;
    if (dims[i] == kUnknownDim) {
      unknown = true;
    } else {
      product = SaturatingProduct(product, dims[i]);
    }
  }
  return unknown ? kUnknownDim : product;
}

}  // namespace tfgn
