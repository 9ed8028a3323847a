// libFuzzer on the validation of calls: no input causes undefined behaviour, and the kernels can
// compute every call that is accepted.
#include <fuzzer/FuzzedDataProvider.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "kernels/group_norm.h"
#include "kernels/standardize_weights.h"

namespace tfgn {
namespace {

#define TFGN_REQUIRE(condition)                                          \
  if (!(condition)) {                                                    \
    std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
    std::abort();                                                        \
  }

class Fuzzer {
 public:
  Fuzzer(const uint8_t* data, size_t size) : data_(data, size) {}

  void Run() {
    if (data_.ConsumeBool()) {
      RunGroupNorm();
    } else {
      RunStandardizeWeights();
    }
  }

 private:
  int64_t Size() {
    const int64_t special[] = {kUnknownDim,
                               0,
                               1,
                               2,
                               8,
                               int64_t{1} << 31,
                               int64_t{1} << 62,
                               std::numeric_limits<int64_t>::max()};
    return data_.ConsumeBool() ? data_.PickValueInArray(special)
                               : data_.ConsumeIntegralInRange<int64_t>(0, 12);
  }

  int64_t Integer() {
    return data_.ConsumeBool() ? data_.ConsumeIntegral<int64_t>()
                               : data_.ConsumeIntegralInRange<int64_t>(-9, 9);
  }

  // A shape of its own, or that of an earlier tensor.
  Dims Shape() {
    if (!shapes_.empty() && data_.ConsumeBool()) {
      return Earlier(data_.ConsumeIntegralInRange<size_t>(0, shapes_.size() - 1));
    }
    std::vector<int64_t> shape(data_.ConsumeIntegralInRange<int>(0, 9));
    for (int64_t& size : shape) size = Size();
    shapes_.push_back(std::move(shape));
    return data_.ConsumeIntegralInRange<int>(0, 7) == 0 ? Dims() : Earlier(shapes_.size() - 1);
  }

  // The sizes do not move when shapes_ grows, because it moves its vectors.
  Dims Earlier(size_t i) { return {shapes_[i].data(), static_cast<int>(shapes_[i].size())}; }

  std::string Text(const char* valid) {
    return data_.ConsumeBool() ? valid : data_.ConsumeRandomLengthString(20);
  }

  void RunGroupNorm() {
    GroupNormCall call;
    call.x = Shape();
    call.gamma = Shape();
    call.beta = Shape();
    call.num_side_inputs = data_.ConsumeIntegralInRange<int64_t>(-1, 3);
    if (call.num_side_inputs == 1) call.side_input = Shape();
    call.groups = Integer();
    call.axis = Integer();
    call.epsilon = data_.ConsumeFloatingPoint<float>();
    const std::string activation = Text("relu");
    call.activation = activation;
    call.x_is_double = data_.ConsumeBool();
    call.params_are_double = data_.ConsumeBool();
    call.is_gradient = data_.ConsumeBool();
    if (call.is_gradient) {
      call.dy = Shape();
      call.mean = Shape();
      call.rstd = Shape();
      call.num_rests = data_.ConsumeIntegralInRange<int64_t>(-1, 3);
      if (call.num_rests == 1) call.rest = Shape();
      call.with_y = data_.ConsumeIntegralInRange<int64_t>(-1, 3);
    } else {
      call.with_rest = data_.ConsumeIntegralInRange<int64_t>(-1, 3);
    }
    GroupNormShape shape;
    const std::string error = ValidateGroupNorm(call, &shape);
    if (!error.empty()) {
      TFGN_REQUIRE(error.find(" must ") != std::string::npos);
      return;
    }
    TFGN_REQUIRE(shape.groups >= 1 && shape.groups == call.groups);
    TFGN_REQUIRE(call.is_gradient || (std::isfinite(shape.epsilon) && shape.epsilon >= 0));
    if (!Known(call.x)) return;
    TFGN_REQUIRE(shape.n >= 0 && shape.a >= 0 && shape.b >= 0 && shape.c % shape.groups == 0);
    TFGN_REQUIRE(TooLarge(call.x) || shape.n * shape.a * shape.c * shape.b == Elements(call.x));
    if (Known(call.gamma)) RequireParams(call.gamma, shape.gamma, shape);
    if (Known(call.beta)) RequireParams(call.beta, shape.beta, shape);
    if (shape.has_side_input) RequireSame(call.side_input, call.x);
    if (!call.is_gradient) return;
    RequireSame(call.dy, call.x);
    const int64_t statistics[] = {shape.n, shape.groups};
    RequireSame(call.mean, {statistics, 2});
    RequireSame(call.rstd, {statistics, 2});
    const int64_t rest[] = {shape.n, 2, shape.groups};
    if (shape.has_rest) RequireSame(call.rest, {rest, 3});
  }

  void RunStandardizeWeights() {
    StandardizeWeightsCall call;
    call.w = Shape();
    call.gain = Shape();
    std::vector<int64_t> axes(data_.ConsumeIntegralInRange<int>(0, 5));
    for (int64_t& axis : axes) axis = Integer();
    call.axis = axes.data();
    call.num_axes = static_cast<int>(axes.size());
    call.epsilon = data_.ConsumeFloatingPoint<float>();
    const std::string mode = Text("clamp_variance");
    call.epsilon_mode = mode;
    call.ddof = Integer();
    call.scale = data_.ConsumeFloatingPoint<float>();
    call.w_is_double = data_.ConsumeBool();
    call.w_hat_is_double = data_.ConsumeBool();
    call.params_are_double = data_.ConsumeBool();
    call.is_gradient = data_.ConsumeBool();
    if (call.is_gradient) {
      call.dw_hat = Shape();
      call.mean = Shape();
      call.rstd = Shape();
    }
    StandardizeWeightsShape shape;
    const std::string error = ValidateStandardizeWeights(call, &shape);
    if (!error.empty()) {
      TFGN_REQUIRE(error.find(" must ") != std::string::npos);
      return;
    }
    TFGN_REQUIRE(std::isfinite(shape.epsilon) && shape.epsilon >= 0 && std::isfinite(shape.scale));
    TFGN_REQUIRE(shape.ddof == 0 || shape.ddof == 1);
    if (!Known(call.w)) return;
    TFGN_REQUIRE(shape.fan_in != 1 || shape.ddof == 0);
    if (!TooLarge(call.w)) {
      TFGN_REQUIRE(shape.outputs * shape.fan_in == Elements(call.w));
      TFGN_REQUIRE(shape.n * shape.c == shape.outputs && shape.a * shape.b == shape.fan_in);
      int64_t product = 1;
      for (const int64_t run : shape.runs) product *= run;
      TFGN_REQUIRE(shape.runs.empty() || product == Elements(call.w));
    }
    if (shape.has_gain) RequireSame(call.gain, {&shape.outputs, 1});
    if (!call.is_gradient) return;
    RequireSame(call.dw_hat, call.w);
    RequireSame(call.mean, {&shape.outputs, 1});
    RequireSame(call.rstd, {&shape.outputs, 1});
  }

  static bool Known(const Dims& dims) {
    for (int i = 0; i < dims.rank; ++i) {
      if (dims[i] == kUnknownDim) return false;
    }
    return dims.has_rank();
  }

  // Whether the product of the sizes other than 0 exceeds an int64.
  static bool TooLarge(const Dims& dims) {
    int64_t product = 1;
    for (int i = 0; i < dims.rank; ++i) {
      if (dims[i] != 0 && __builtin_mul_overflow(product, dims[i], &product)) return true;
    }
    return false;
  }

  static int64_t Elements(const Dims& dims) { return Product(dims, 0, dims.rank); }

  static void RequireSame(const Dims& dims, const Dims& expected) {
    if (!Known(dims)) return;
    TFGN_REQUIRE(dims.rank == expected.rank);
    for (int i = 0; i < dims.rank; ++i) TFGN_REQUIRE(dims[i] == expected[i]);
  }

  static void RequireParams(const Dims& dims, Affine affine, const GroupNormShape& shape) {
    const int64_t sizes[] = {shape.n, affine == Affine::kAbsent ? 0 : shape.c};
    const int first = affine == Affine::kPerSample ? 0 : 1;
    RequireSame(dims, {sizes + first, 2 - first});
  }

  FuzzedDataProvider data_;
  std::vector<std::vector<int64_t>> shapes_;
};

}  // namespace
}  // namespace tfgn

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tfgn::Fuzzer(data, size).Run();
  return 0;
}
