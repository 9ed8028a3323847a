// StandardizeWeights on an emulated CUDA device, against plain loops in double.
#include "kernels/cuda/standardize_weights.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cuda_testing.h"
#include "shapes.h"

namespace tfgn {
namespace {

StandardizeWeightsShape ShapeOf(const TestShape& test, std::string_view mode, int64_t ddof,
                                bool is_double) {
  StandardizeWeightsCall call;
  const int64_t no_gain = 0;
  call.w = {test.size.data(), static_cast<int>(test.size.size())};
  call.gain = {&no_gain, 1};
  call.axis = test.axis.data();
  call.num_axes = static_cast<int>(test.axis.size());
  call.epsilon = 1e-5;
  call.epsilon_mode = mode;
  call.ddof = ddof;
  call.scale = 0.75;
  call.w_is_double = call.w_hat_is_double = call.params_are_double = is_double;
  StandardizeWeightsShape shape;
  EXPECT_EQ(ValidateStandardizeWeights(call, &shape), "");
  shape.has_gain = true;
  return shape;
}

// The elements of every output channel.
std::vector<std::vector<int64_t>> ElementsOf(const TestShape& test) {
  int64_t outputs = 1, count = 1;
  std::vector<bool> kept(test.size.size(), false);
  for (int64_t axis : test.axis) kept[axis] = true;
  for (size_t i = 0; i < kept.size(); ++i) {
    count *= test.size[i];
    if (kept[i]) outputs *= test.size[i];
  }
  std::vector<std::vector<int64_t>> elements(outputs);
  for (int64_t i = 0; i < count; ++i) {
    int64_t output = 0, stride = 1, rest = i;
    for (int k = static_cast<int>(kept.size()) - 1; k >= 0; --k) {
      if (kept[k]) {
        output += rest % test.size[k] * stride;
        stride *= test.size[k];
      }
      rest /= test.size[k];
    }
    elements[output].push_back(i);
  }
  return elements;
}

template <typename T, typename Tout>
struct Data {
  explicit Data(const StandardizeWeightsShape& shape)
      : w(shape.outputs * shape.fan_in),
        dw(w.size()),
        w_hat(w.size()),
        dw_hat(w.size()),
        gain(shape.outputs),
        mean(shape.outputs),
        rstd(shape.outputs),
        dgain(shape.outputs) {}

  std::string Forward(const StandardizeWeightsShape& shape, const CudaDevice& device) {
    ForwardTensors<T, Tout> tensors;
    tensors.x = w.data();
    tensors.gamma = gain.data();
    tensors.y = w_hat.data();
    tensors.mean = mean.data();
    tensors.rstd = rstd.data();
    return RunPlanned(shape, tensors, device);
  }

  std::string Backward(const StandardizeWeightsShape& shape, const CudaDevice& device) {
    BackwardTensors<T, Tout> tensors;
    tensors.dy = dw_hat.data();
    tensors.x = w.data();
    tensors.gamma = gain.data();
    tensors.mean = mean.data();
    tensors.rstd = rstd.data();
    tensors.dx = dw.data();
    tensors.dgamma = dgain.data();
    return RunPlanned(shape, tensors, device);
  }

  Buffer<T> w, dw;
  Buffer<Tout> w_hat, dw_hat;
  Buffer<ParamOf<T>> gain, mean, rstd, dgain;
};

template <typename T, typename Tout>
void Check(const TestShape& test, const CudaDevice& device, std::string_view mode, int64_t ddof,
           double offset = 0.1) {
  SCOPED_TRACE(test.name + ", " + std::string(mode) + ", " + std::to_string(sizeof(T)) + " to " +
               std::to_string(sizeof(Tout)) + " bytes, " + std::to_string(device.multiprocessors) +
               " multiprocessors");
  const StandardizeWeightsShape shape = ShapeOf(test, mode, ddof, std::is_same_v<T, double>);
  Data<T, Tout> data(shape);
  auto& [w, dw, w_hat, dw_hat, gain, mean, rstd, dgain] = data;
  std::mt19937 random(1);
  Fill(&w, &random, offset);
  Fill(&dw_hat, &random);
  Fill(&gain, &random, 1);
  cuda_emulation::launches = 0;
  ASSERT_EQ(data.Forward(shape, device), "");
  ASSERT_EQ(data.Backward(shape, device), "");
  EXPECT_EQ(cuda_emulation::launches, 2);

  const double unit = Arithmetic<T>();
  const auto elements = ElementsOf(test);
  RelativeError w_hat_error, dw_error, dgain_error;
  double largest_offset = 0;
  for (int64_t o = 0; o < shape.outputs; ++o) {
    const double fan_in = static_cast<double>(shape.fan_in), n = fan_in - static_cast<double>(ddof);
    long double total = 0, squares = 0;
    for (int64_t i : elements[o]) total += ToDouble(w[i]);
    const double m = static_cast<double>(total / fan_in);
    for (int64_t i : elements[o]) squares += std::pow(ToDouble(w[i]) - m, 2);
    const double var = static_cast<double>(squares / n), e = shape.epsilon;
    double r, slope;
    if (mode == "add_to_variance") {
      r = 1 / std::sqrt(var + e);
      slope = -r * r * r / 2;
    } else if (mode == "add_to_stddev") {
      r = 1 / (std::sqrt(var) + e);
      slope = -r * r / (2 * std::sqrt(var));
    } else {
      r = 1 / std::sqrt(std::max(var, e));
      slope = var > e ? -r * r * r / 2 : 0;
    }
    EXPECT_NEAR(mean[o], m, 4 * unit * (std::fabs(m) + 1 / r));
    EXPECT_NEAR(rstd[o], r, 8 * unit * r);
    largest_offset = std::max(largest_offset, std::fabs(m) * r);
    const double scale = gain[o] * shape.scale;
    double sum = 0, product = 0;
    for (int64_t i : elements[o]) {
      sum += ToDouble(dw_hat[i]);
      product += ToDouble(dw_hat[i]) * (ToDouble(w[i]) - m);
    }
    dgain_error.Add(dgain[o], product * shape.scale * r);
    for (int64_t i : elements[o]) {
      const double centered = ToDouble(w[i]) - m;
      w_hat_error.Add(ToDouble(w_hat[i]), scale * centered * r);
      dw_error.Add(ToDouble(dw[i]), r * scale * (ToDouble(dw_hat[i]) - sum / fan_in) +
                                        centered * product * scale * slope * 2 / n);
    }
  }
  const double bound = 64 * unit * (1 + largest_offset);
  EXPECT_LE(w_hat_error.value(), 8 * unit * (1 + largest_offset) + Rounding<Tout>());
  EXPECT_LE(dw_error.value(), bound + Rounding<T>());
  EXPECT_LE(dgain_error.value(), bound);
  EXPECT_TRUE(w_hat.Intact() && dw.Intact() && mean.Intact() && rstd.Intact() && dgain.Intact());
}

TEST(EmulatedStandardizeWeights, EveryForm) {
  for (const CudaDevice& device : kDevices) {
    for (const TestShape& test : TestShapes({"kernels", "emulated_kernels"})) {
      if (test.elements() > kMaxElements) continue;
      Check<float, float>(test, device, "add_to_variance", 0);
      Check<float, float16>(test, device, "add_to_stddev", 1);
      Check<bfloat16, float>(test, device, "clamp_variance", 0);
    }
  }
}

TEST(EmulatedStandardizeWeights, EveryPairOfTypes) {
  for (const char* name : {"conv2d_odd", "conv2d_oihw", "interleaved"}) {
    const TestShape test = TestShapeOf("kernels", name);
    const CudaDevice& device = kDevices[1];
    Check<float16, float16>(test, device, "add_to_variance", 0);
    Check<float16, bfloat16>(test, device, "add_to_variance", 0);
    Check<float16, float>(test, device, "add_to_variance", 0);
    Check<bfloat16, float16>(test, device, "add_to_variance", 0);
    Check<bfloat16, bfloat16>(test, device, "add_to_variance", 0);
    Check<float, bfloat16>(test, device, "add_to_variance", 0);
    Check<double, double>(test, device, "add_to_stddev", 1);
    Check<float, float>(test, device, "add_to_variance", 0, 1e3);
  }
}

TEST(EmulatedStandardizeWeights, Empty) {
  for (const TestShape& test : TestShapes({"empty_kernels"})) {
    StandardizeWeightsShape shape = ShapeOf(test, "add_to_variance", 0, false);
    Data<float, float> data(shape);
    EXPECT_EQ(data.Forward(shape, kDevices[0]), "");
    EXPECT_EQ(data.Backward(shape, kDevices[0]), "");
    for (int64_t o = 0; o < shape.outputs; ++o) {
      EXPECT_EQ(data.mean[o], 0);
      EXPECT_FLOAT_EQ(data.rstd[o], static_cast<float>(1 / std::sqrt(shape.epsilon)));
      EXPECT_EQ(data.dgain[o], 0);
    }
  }
}

}  // namespace
}  // namespace tfgn
