// Conversions between float and IEEE 754 binary16, to nearest, ties to even.
#ifndef TFGN_TESTS_CUDA_EMULATION_CUDA_FP16_H_
#define TFGN_TESTS_CUDA_EMULATION_CUDA_FP16_H_

#include <cmath>
#include <cstdint>
#include <limits>

struct __half {
  uint16_t bits;
};
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half v) { return v.bits; }

inline float __half2float(__half v) {
  const int exponent = v.bits >> 10 & 31, fraction = v.bits & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = fraction != 0 ? std::nanf("") : std::numeric_limits<float>::infinity();
  } else {
    magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                              : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  }
  return v.bits >> 15 != 0 ? -magnitude : magnitude;
}

inline __half __float2half_rn(float v) {
  const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
  if (std::isnan(v)) return {static_cast<uint16_t>(sign | 0x7FFF)};
  const float magnitude = std::fabs(v);
  if (magnitude >= 65520) return {static_cast<uint16_t>(sign | 0x7C00)};
  if (magnitude == 0) return {sign};
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
  const int unit = exponent < -13 ? -24 : exponent - 11;
  // A sum of exponent and fraction: a fraction that rounds up to 1024 carries.
  const int fraction = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));
  return {static_cast<uint16_t>(sign |
                                (exponent < -13 ? fraction : ((exponent + 13) << 10) + fraction))};
}

#endif  // TFGN_TESTS_CUDA_EMULATION_CUDA_FP16_H_
