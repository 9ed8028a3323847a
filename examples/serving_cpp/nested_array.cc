#include "nested_array.h"

#include <charconv>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace {

// The highest rank that TensorFlow's kernels accept. It also bounds the recursion.
constexpr size_t kMaxRank = 8;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<NestedArray> Parse() {
    if (absl::Status status = List(0); !status.ok()) return status;
    if (Peek() != '\0') return Unexpected("the end of the line");
    return std::move(array_);
  }

 private:
  // Returns the next character that is not white space, or '\0' at the end.
  char Peek() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != text_.npos) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  absl::Status Unexpected(std::string_view expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("a request is one line with a nested list of numbers: expected ", expected,
                     " at column ", at_ + 1));
  }

  absl::Status Ragged() {
    return absl::InvalidArgumentError(absl::StrCat(
        "the lists of one depth must be equally long, but are not at column ", at_ + 1));
  }

  absl::Status List(size_t depth) {
    if (Peek() != '[') return Unexpected("'['");
    if (depth == array_.shape.size()) {
      if (rank_is_known_) return Ragged();
      if (depth == kMaxRank) {
        return absl::InvalidArgumentError(
            absl::StrCat("lists may be nested ", kMaxRank, " deep at most"));
      }
      array_.shape.push_back(kUnknown);
    }
    ++at_;
    int64_t size = 0;
    if (Peek() != ']') {
      while (true) {
        if (absl::Status status = Element(depth); !status.ok()) return status;
        ++size;
        if (Peek() == ']') break;
        if (Peek() != ',') return Unexpected("',' or ']'");
        ++at_;
      }
    }
    rank_is_known_ = true;
    if (array_.shape[depth] == kUnknown) array_.shape[depth] = size;
    if (array_.shape[depth] != size) return Ragged();
    ++at_;
    return absl::OkStatus();
  }

  absl::Status Element(size_t depth) {
    if (Peek() == '[') return List(depth + 1);
    if (depth + 1 != array_.shape.size()) return Ragged();
    rank_is_known_ = true;
    return Number();
  }

  absl::Status Number() {
    // from_chars also accepts "inf" and "nan", which are not JSON.
    const size_t digit = at_ + (Peek() == '-' ? 1 : 0);
    if (digit >= text_.size() || text_[digit] < '0' || text_[digit] > '9') {
      return Unexpected("a number");
    }
    double value = 0;
    const auto [end, error] =
        std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (error != std::errc() || !std::isfinite(static_cast<float>(value))) {
      return absl::InvalidArgumentError(
          absl::StrCat("the number at column ", at_ + 1, " is out of the range of float32"));
    }
    at_ = end - text_.data();
    array_.values.push_back(static_cast<float>(value));
    return absl::OkStatus();
  }

  static constexpr int64_t kUnknown = -1;

  std::string_view text_;
  size_t at_ = 0;
  bool rank_is_known_ = false;
  NestedArray array_;
};

void Append(const std::vector<int64_t>& shape, size_t axis, const float*& value,
            std::string& json) {
  if (axis == shape.size()) {
    char digits[32];
    const auto [end, error] = std::to_chars(digits, digits + sizeof(digits), *value++);
    json.append(digits, error == std::errc() ? end : digits);
    return;
  }
  json += '[';
  for (int64_t i = 0; i < shape[axis]; ++i) {
    if (i > 0) json += ',';
    Append(shape, axis + 1, value, json);
  }
  json += ']';
}

}  // namespace

absl::StatusOr<NestedArray> ParseNestedArray(std::string_view json) { return Parser(json).Parse(); }

absl::StatusOr<std::string> FormatNestedArray(const NestedArray& array) {
  for (const float value : array.values) {
    if (std::isfinite(value)) continue;
    return absl::InvalidArgumentError(
        "the answer holds NaN or infinity, which JSON cannot represent");
  }
  std::string json;
  const float* value = array.values.data();
  Append(array.shape, 0, value, json);
  return json;
}
