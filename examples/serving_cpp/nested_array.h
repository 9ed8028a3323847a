// Converts float32 arrays from and to JSON: nested lists of numbers such as [[1, 2.5], [3, 4]].

#ifndef SERVING_CPP_NESTED_ARRAY_H_
#define SERVING_CPP_NESTED_ARRAY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

struct NestedArray {
  std::vector<int64_t> shape;
  std::vector<float> values;  // Row-major.
};

// Returns InvalidArgument unless `json` is one list of finite float32 numbers in which all lists of
// one depth have the same length.
absl::StatusOr<NestedArray> ParseNestedArray(std::string_view json);

// Writes the shortest decimals that read back as the same float32. Returns InvalidArgument if a
// value is NaN or infinite, which JSON cannot represent.
absl::StatusOr<std::string> FormatNestedArray(const NestedArray& array);

#endif  // SERVING_CPP_NESTED_ARRAY_H_
