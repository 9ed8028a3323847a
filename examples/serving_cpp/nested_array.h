// Arrays of float32 as JSON writes them: nested lists of numbers, [[1, 2.5], [3, 4]].

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

// InvalidArgument where `json` is anything but one list whose lists of one depth are equally long
// and which holds nothing but finite float32 numbers.
absl::StatusOr<NestedArray> ParseNestedArray(std::string_view json);

// The shortest decimals that read back as the same float32. InvalidArgument where a value is NaN or
// infinite, which JSON has no numbers for.
absl::StatusOr<std::string> FormatNestedArray(const NestedArray& array);

#endif  // SERVING_CPP_NESTED_ARRAY_H_
