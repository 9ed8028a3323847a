// Element types of tensors. The kernels compute in float (in double for double). The 16-bit types
// exist in memory only and have no arithmetic.
#ifndef TFGN_KERNELS_DTYPES_H_
#define TFGN_KERNELS_DTYPES_H_

#include <cstdint>
#include <type_traits>

namespace tfgn {

struct float16 {  // IEEE 754 binary16
  uint16_t bits;
};

struct bfloat16 {  // the upper half of an IEEE 754 binary32
  uint16_t bits;
};

// The type of gamma, beta, gain and of all statistics that go with a tensor of T.
template <typename T>
using ParamOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace tfgn

// The one list of element types: every instantiation and registration expands it.
#define TFGN_FOR_EACH_DTYPE(X) X(::tfgn::float16) X(::tfgn::bfloat16) X(float) X(double)

// The one list of pairs of element types, of the input and the output of an op: any two, but double
// goes with double.
#define TFGN_FOR_EACH_DTYPE_PAIR(X)     \
  X(::tfgn::float16, ::tfgn::float16)   \
  X(::tfgn::float16, ::tfgn::bfloat16)  \
  X(::tfgn::float16, float)             \
  X(::tfgn::bfloat16, ::tfgn::float16)  \
  X(::tfgn::bfloat16, ::tfgn::bfloat16) \
  X(::tfgn::bfloat16, float)            \
  X(float, ::tfgn::float16)             \
  X(float, ::tfgn::bfloat16)            \
  X(float, float)                       \
  X(double, double)

#endif  // TFGN_KERNELS_DTYPES_H_
