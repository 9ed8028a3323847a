// The CUDA kernels on an emulated device. Results match plain loops in double, every element is
// written and nothing else, and the order of threads does not change a bit.
#include "cuda_testing.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/group_norm.h"
#include "shapes.h"

namespace tfgn {
namespace {

double ActivationOf(Activation activation, double z) {
  if (activation == Activation::kRelu) return z > 0 ? z : 0;
  return activation == Activation::kSilu ? z / (1 + std::exp(-z)) : z;
}
double SlopeOf(Activation activation, double z) {
  if (activation == Activation::kRelu) return z > 0 ? 1 : 0;
  const double s = 1 / (1 + std::exp(-z));
  return activation == Activation::kSilu ? s * (1 + z * (1 - s)) : 1;
}

int64_t SizeOf(Affine affine, const GroupNormShape& s) {
  return affine == Affine::kAbsent ? 0 : affine == Affine::kPerSample ? s.n * s.c : s.c;
}

template <typename T>
struct GroupNormData {
  using U = ParamOf<T>;

  GroupNormData(const GroupNormShape& s, double offset, int misaligned, unsigned seed)
      : shape(s),
        size(s.n * s.a * s.c * s.b),
        x(size, misaligned),
        side(size, misaligned),
        dy(size, misaligned),
        y(size, misaligned),
        dx(size, misaligned),
        dside(size, misaligned),
        again(size, misaligned),
        gamma(SizeOf(s.gamma, s)),
        beta(SizeOf(s.beta, s)),
        mean(s.n * s.groups),
        rstd(s.n * s.groups),
        rest(2 * s.n * s.groups),
        dgamma(gamma.size()),
        dbeta(beta.size()) {
    std::mt19937 random(seed);
    Fill(&x, &random, offset);
    Fill(&side, &random);
    Fill(&dy, &random);
    Fill(&gamma, &random, 1);
    Fill(&beta, &random);
  }

  ForwardTensors<T> forward_tensors() {
    ForwardTensors<T> tensors;
    tensors.x = x.data();
    tensors.gamma = gamma.data();
    tensors.beta = beta.data();
    if (shape.has_side_input) tensors.side_input = side.data();
    tensors.y = y.data();
    tensors.mean = mean.data();
    tensors.rstd = rstd.data();
    tensors.rest = rest.data();
    return tensors;
  }

  BackwardTensors<T> backward_tensors() {
    BackwardTensors<T> tensors;
    tensors.dy = dy.data();
    tensors.x = x.data();
    tensors.gamma = gamma.data();
    tensors.beta = beta.data();
    tensors.mean = mean.data();
    tensors.rstd = rstd.data();
    tensors.rest = rest.data();
    if (shape.has_side_input) tensors.side_input = side.data();
    tensors.dx = dx.data();
    tensors.dgamma = dgamma.data();
    tensors.dbeta = dbeta.data();
    tensors.dside = dside.data();
    tensors.y = again.data();
    return tensors;
  }

  std::string Forward(const CudaDevice& device) {
    return RunPlanned(shape, forward_tensors(), device);
  }
  std::string Backward(const CudaDevice& device) {
    return RunPlanned(shape, backward_tensors(), device);
  }

  GroupNormShape shape;
  int64_t size;
  Buffer<T> x, side, dy, y, dx, dside, again;
  Buffer<U> gamma, beta, mean, rstd, rest, dgamma, dbeta;
};

template <typename T>
bool SameBits(Buffer<T>& a, Buffer<T>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Compares with the formulas of group_norm.h, evaluated group by group.
template <typename T>
void Compare(GroupNormData<T>& d) {
  const GroupNormShape& s = d.shape;
  const int64_t channels = s.channels_per_group();
  const double unit = Arithmetic<T>(), rounding = Rounding<T>();
  const double smallest = std::is_same_v<T, float16> ? 0x1p-24 : 0;
  std::vector<double> dgamma(d.dgamma.size()), dbeta(d.dbeta.size());
  RelativeError dx, dside;
  double worst = 0, largest_offset = 0;
  const auto at = [&](int64_t n, int64_t a, int64_t c, int64_t b) {
    return ((n * s.a + a) * s.c + c) * s.b + b;
  };
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t g = 0; g < s.groups; ++g) {
      const auto for_each = [&](auto&& f) {
        for (int64_t a = 0; a < s.a; ++a) {
          for (int64_t c = g * channels; c < (g + 1) * channels; ++c) {
            for (int64_t b = 0; b < s.b; ++b) f(at(n, a, c, b), c);
          }
        }
      };
      const double count = static_cast<double>(s.a * channels * s.b);
      long double sum_x = 0, squares = 0;
      for_each([&](int64_t i, int64_t) { sum_x += ToDouble(d.x[i]); });
      const double mean = static_cast<double>(sum_x / count);
      for_each([&](int64_t i, int64_t) { squares += std::pow(ToDouble(d.x[i]) - mean, 2); });
      const double var = static_cast<double>(squares / count);
      const double rstd = 1 / std::sqrt(var + s.epsilon), offset = std::fabs(mean) * rstd;
      largest_offset = std::max(largest_offset, offset);
      const int64_t group = n * s.groups + g;
      EXPECT_NEAR(d.mean[group], mean, 4 * unit * (std::fabs(mean) + 1 / rstd));
      EXPECT_NEAR(d.rstd[group], rstd, 8 * unit * rstd);
      // With its rest, the mean is better than its type.
      const double rest = d.rest[group + n * s.groups];
      EXPECT_NEAR(d.mean[group] + rest, mean, 16 * unit / rstd + 0x1p-50 * std::fabs(mean));
      EXPECT_LE(std::fabs(rest), unit * std::fabs(d.mean[group]));
      EXPECT_EQ(d.rest[group + (n + 1) * s.groups], 0);

      const auto affine_index = [&](Affine affine, int64_t c) {
        return affine == Affine::kPerSample ? n * s.c + c : c;
      };
      const auto gamma_of = [&](int64_t c) {
        return s.gamma == Affine::kAbsent ? 1.0 : d.gamma[affine_index(s.gamma, c)];
      };
      const auto z_of = [&](int64_t i, int64_t c, double xhat) {
        const double beta = s.beta == Affine::kAbsent ? 0 : d.beta[affine_index(s.beta, c)];
        return xhat * gamma_of(c) + beta + (s.has_side_input ? ToDouble(d.side[i]) : 0);
      };
      for_each([&](int64_t i, int64_t c) {
        const double z = z_of(i, c, (ToDouble(d.x[i]) - mean) * rstd);
        const double y = ActivationOf(s.activation, z);
        // The bound of z, whose terms may cancel. Activations are at most 1.1 times as steep.
        double bound = unit * (8 * (1 + offset) * std::fabs(gamma_of(c)) + 2 * std::fabs(y) + 4);
        bound += rounding * (std::fabs(y) + bound) + smallest;
        worst = std::max(worst, std::fabs(ToDouble(d.y[i]) - y) / bound);
      });
      // Computed from the saved statistics, as the gradient is.
      double sum = 0, sum_xhat = 0;
      const double saved_mean = d.mean[group] + rest, saved_rstd = d.rstd[group];
      const auto xhat_of = [&](int64_t i) { return (ToDouble(d.x[i]) - saved_mean) * saved_rstd; };
      const auto dz_of = [&](int64_t i, int64_t c) {
        return ToDouble(d.dy[i]) * SlopeOf(s.activation, z_of(i, c, xhat_of(i)));
      };
      for_each([&](int64_t i, int64_t c) {
        const double dz = dz_of(i, c), xhat = xhat_of(i);
        sum += gamma_of(c) * dz;
        sum_xhat += gamma_of(c) * dz * xhat;
        if (!dbeta.empty()) dbeta[affine_index(s.beta, c)] += dz;
        if (!dgamma.empty()) dgamma[affine_index(s.gamma, c)] += dz * xhat;
      });
      for_each([&](int64_t i, int64_t c) {
        const double dz = dz_of(i, c);
        const double expected =
            saved_rstd * (gamma_of(c) * dz - (sum + xhat_of(i) * sum_xhat) / count);
        // In a group of one element the terms cancel: dx is 0, or what a fused multiply-add rounds.
        dx.Add(ToDouble(d.dx[i]), expected, count == 1 ? saved_rstd * gamma_of(c) * dz : expected);
        if (s.has_side_input) dside.Add(ToDouble(d.dside[i]), dz);
      });
    }
  }
  EXPECT_LE(worst, 1);
  const double bound = 64 * unit * (1 + largest_offset);
  const double tiny = smallest * std::sqrt(static_cast<double>(d.size));
  EXPECT_LE(dx.value(), bound + rounding + tiny);
  EXPECT_LE(dside.value(), bound + rounding + tiny);
  RelativeError gamma_error, beta_error;
  for (int64_t i = 0; i < d.dgamma.size(); ++i) gamma_error.Add(d.dgamma[i], dgamma[i]);
  for (int64_t i = 0; i < d.dbeta.size(); ++i) beta_error.Add(d.dbeta[i], dbeta[i]);
  EXPECT_LE(gamma_error.value(), bound);
  EXPECT_LE(beta_error.value(), bound);
  EXPECT_TRUE(SameBits(d.y, d.again));
  for (auto* buffer : {&d.y, &d.dx, &d.dside, &d.again}) EXPECT_TRUE(buffer->Intact());
  for (auto* buffer : {&d.mean, &d.rstd, &d.rest, &d.dgamma, &d.dbeta}) {
    EXPECT_TRUE(buffer->Intact());
  }
}

GroupNormShape ShapeOf(const TestShape& test) {
  GroupNormShape shape = GroupNormShapeOf(test);
  shape.gamma = Affine::kPerChannel;
  shape.beta = Affine::kPerChannel;
  shape.has_side_input = true;
  shape.activation = Activation::kSilu;
  return shape;
}

std::string NameOf(const GroupNormShape& s) {
  return "[" + std::to_string(s.n) + "," + std::to_string(s.a) + "," + std::to_string(s.c) + "," +
         std::to_string(s.b) + "] in " + std::to_string(s.groups) + " groups";
}

template <typename T>
void Check(const GroupNormShape& shape, const CudaDevice& device, double offset = 0.5,
           int misaligned = 0) {
  SCOPED_TRACE(NameOf(shape) + " of " + std::to_string(sizeof(T)) + " bytes on " +
               std::to_string(device.multiprocessors) + " multiprocessors");
  GroupNormData<T> data(shape, offset, misaligned, 1);
  ASSERT_EQ(data.Forward(device), "");
  ASSERT_EQ(data.Backward(device), "");
  Compare(data);
}

template <typename T>
void RunOnAll(const std::vector<TestShape>& tests) {
  for (const TestShape& test : tests) {
    if (test.elements() > kMaxElements) continue;
    for (const CudaDevice& device : kDevices) Check<T>(ShapeOf(test), device);
  }
}

std::vector<TestShape> SmallAndLarge() {
  return TestShapes({"group_norm", "vector_edges", "large", "emulated"});
}
std::vector<TestShape> Small() { return TestShapes({"group_norm"}); }

TEST(EmulatedGroupNorm, Float) { RunOnAll<float>(SmallAndLarge()); }
TEST(EmulatedGroupNorm, Float16) { RunOnAll<float16>(SmallAndLarge()); }
TEST(EmulatedGroupNorm, Bfloat16) { RunOnAll<bfloat16>(Small()); }
TEST(EmulatedGroupNorm, Double) { RunOnAll<double>(Small()); }

// One of each layout.
std::vector<TestShape> Few() {
  std::vector<TestShape> few;
  for (const char* name : {"image_last", "image_first", "long_runs_middle"}) {
    few.push_back(TestShapeOf("group_norm", name));
  }
  return few;
}

TEST(EmulatedGroupNorm, LargeMean) {
  for (const TestShape& test : Few()) {
    for (const CudaDevice& device : kDevices) {
      GroupNormShape shape = ShapeOf(test);
      shape.has_side_input = false;
      shape.activation = Activation::kLinear;
      Check<float>(shape, device, 1e4);
      Check<double>(shape, device, 1e4);
      Check<bfloat16>(shape, device, 300);
    }
  }
}

TEST(EmulatedGroupNorm, ActivationsAndAffine) {
  for (const TestShape& test : Few()) {
    for (Activation activation : {Activation::kLinear, Activation::kRelu}) {
      for (Affine gamma : {Affine::kAbsent, Affine::kPerSample}) {
        GroupNormShape shape = ShapeOf(test);
        shape.activation = activation;
        shape.gamma = gamma;
        shape.beta = gamma == Affine::kAbsent ? Affine::kPerSample : Affine::kPerChannel;
        shape.has_side_input = gamma == Affine::kAbsent;
        for (const CudaDevice& device : kDevices) Check<float>(shape, device);
      }
    }
  }
}

TEST(EmulatedGroupNorm, MisalignedMemory) {
  for (const TestShape& test : Few()) {
    for (const CudaDevice& device : kDevices) {
      Check<float>(ShapeOf(test), device, 0.5, 1);
      Check<float16>(ShapeOf(test), device, 0.5, 3);
    }
  }
}

TEST(EmulatedGroupNorm, ManySamples) {
  const CudaDevice small = {90, 1, 227 << 10, 228 << 10, 50 << 20};
  for (const TestShape& test : TestShapes({"samples"})) {
    Check<float>(ShapeOf(test), small);
    GroupNormShape shape = ShapeOf(test);
    shape.beta = Affine::kPerSample;
    Check<float>(shape, small);
  }
}

TEST(EmulatedGroupNorm, SameBitsInAnyOrderOfThreads) {
  for (const TestShape& test : Few()) {
    for (const CudaDevice& device : kDevices) {
      GroupNormData<float> a(ShapeOf(test), 0.5, 0, 1), b(ShapeOf(test), 0.5, 0, 1);
      ASSERT_EQ(a.Forward(device), "");
      ASSERT_EQ(a.Backward(device), "");
      cuda_emulation::backwards = true;
      EXPECT_EQ(b.Forward(device), "");
      EXPECT_EQ(b.Backward(device), "");
      cuda_emulation::backwards = false;
      EXPECT_TRUE(SameBits(a.y, b.y) && SameBits(a.mean, b.mean) && SameBits(a.rstd, b.rstd));
      EXPECT_TRUE(SameBits(a.dx, b.dx) && SameBits(a.dside, b.dside));
      EXPECT_TRUE(SameBits(a.dgamma, b.dgamma) && SameBits(a.dbeta, b.dbeta));
      EXPECT_TRUE(SameBits(a.rest, b.rest) && SameBits(a.again, b.again));
    }
  }
}

TEST(EmulatedGroupNorm, OutputsInTheMemoryOfInputs) {
  for (const TestShape& test : Few()) {
    for (const CudaDevice& device : kDevices) {
      const GroupNormShape shape = ShapeOf(test);
      GroupNormData<float> d(shape, 0.5, 0, 1), e(shape, 0.5, 0, 1), f(shape, 0.5, 0, 1);
      ASSERT_EQ(d.Forward(device), "");
      ASSERT_EQ(d.Backward(device), "");
      const auto forward = [&](GroupNormData<float>& g, float* y) {
        ForwardTensors<float> tensors = g.forward_tensors();
        tensors.y = y;
        return RunPlanned(shape, tensors, device);
      };
      const auto backward = [&](GroupNormData<float>& g, float* dx, float* dside,
                                float* y = nullptr) {
        BackwardTensors<float> tensors = g.backward_tensors();
        tensors.mean = d.mean.data();
        tensors.rstd = d.rstd.data();
        tensors.rest = d.rest.data();
        tensors.dx = dx;
        tensors.dside = dside;
        tensors.y = y;
        return RunPlanned(shape, tensors, device);
      };
      EXPECT_EQ(backward(e, e.dy.data(), e.side.data()), "");
      EXPECT_TRUE(SameBits(d.dx, e.dy) && SameBits(d.dside, e.side));
      EXPECT_TRUE(SameBits(d.dgamma, e.dgamma) && SameBits(d.dbeta, e.dbeta));
      EXPECT_EQ(backward(f, f.x.data(), f.dy.data()), "");
      EXPECT_TRUE(SameBits(d.dx, f.x) && SameBits(d.dside, f.dy));
      GroupNormData<float> g(shape, 0.5, 0, 1), h(shape, 0.5, 0, 1);
      EXPECT_EQ(forward(g, g.x.data()), "");
      EXPECT_TRUE(SameBits(d.y, g.x));
      EXPECT_EQ(forward(h, h.side.data()), "");
      EXPECT_TRUE(SameBits(d.y, h.side));
      // Outputs that are not wanted.
      GroupNormData<float> i(shape, 0.5, 0, 1);
      EXPECT_EQ(backward(i, i.dx.data(), nullptr), "");
      EXPECT_TRUE(SameBits(d.dx, i.dx));
      EXPECT_EQ(backward(i, nullptr, i.dside.data()), "");
      EXPECT_TRUE(SameBits(d.dside, i.dside));
      EXPECT_EQ(backward(i, nullptr, nullptr, i.y.data()), "");
      EXPECT_TRUE(SameBits(d.y, i.y));
      // y in the memory of each input.
      GroupNormData<float> j(shape, 0.5, 0, 1), k(shape, 0.5, 0, 1), l(shape, 0.5, 0, 1);
      EXPECT_EQ(backward(j, j.dy.data(), j.side.data(), j.x.data()), "");
      EXPECT_TRUE(SameBits(d.dx, j.dy) && SameBits(d.dside, j.side) && SameBits(d.y, j.x));
      EXPECT_EQ(backward(k, k.x.data(), k.dy.data(), k.side.data()), "");
      EXPECT_TRUE(SameBits(d.dx, k.x) && SameBits(d.dside, k.dy) && SameBits(d.y, k.side));
      EXPECT_EQ(backward(l, l.x.data(), l.side.data(), l.dy.data()), "");
      EXPECT_TRUE(SameBits(d.dx, l.x) && SameBits(d.dside, l.side) && SameBits(d.y, l.dy));
    }
  }
}

TEST(EmulatedGroupNorm, Empty) {
  for (const TestShape& test : TestShapes({"empty"})) {
    GroupNormData<float> d(ShapeOf(test), 0, 0, 1);
    EXPECT_EQ(d.Forward(kDevices[0]), "");
    EXPECT_EQ(d.Backward(kDevices[0]), "");
    for (int64_t i = 0; i < d.mean.size(); ++i) {
      EXPECT_EQ(d.mean[i], 0);
      EXPECT_FLOAT_EQ(d.rstd[i], static_cast<float>(1 / std::sqrt(d.shape.epsilon)));
    }
    for (int64_t i = 0; i < d.rest.size(); ++i) EXPECT_EQ(d.rest[i], 0);
    for (int64_t i = 0; i < d.dgamma.size(); ++i) EXPECT_EQ(d.dgamma[i], 0);
  }
}

}  // namespace
}  // namespace tfgn
