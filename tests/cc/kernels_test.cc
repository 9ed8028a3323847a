// The kernels on buffers of exactly the size they may touch, for AddressSanitizer and
// ThreadSanitizer. These tests check that every output was written and is finite;
// tests/kernels/test_kernels.py checks the values.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/cpu/group_norm.h"
#include "kernels/cpu/standardize_weights.h"
#include "kernels/cpu/target.h"
#include "shapes.h"

namespace tfgn {
namespace {

// A heap block of exactly `count` elements that is not aligned as an allocation is.
template <typename T>
class Exact {
 public:
  explicit Exact(int64_t count) : bytes_(new char[kOffset + count * sizeof(T)]), count_(count) {
    for (int64_t i = 0; i < count; ++i) Set(i, 0x7FFF);  // a NaN in both 16-bit types
  }
  T* data() { return reinterpret_cast<T*>(bytes_.get() + kOffset); }

  // Small positive numbers.
  Exact& Fill() {
    for (int64_t i = 0; i < count_; ++i) {
      if constexpr (sizeof(T) == 2) {
        Set(i, std::is_same_v<T, float16> ? 0x3800 + i % 512 : 0x3F00 + i % 64);
      } else {
        data()[i] = static_cast<T>(0.5 + 0.01 * static_cast<double>(i % 37));
      }
    }
    return *this;
  }

  bool Written() {
    for (int64_t i = 0; i < count_; ++i) {
      if constexpr (sizeof(T) == 2) {
        if (data()[i].bits == 0x7FFF) return false;
      } else if (!std::isfinite(data()[i])) {
        return false;
      }
    }
    return true;
  }

 private:
  static constexpr int64_t kOffset = sizeof(T);

  void Set(int64_t i, int bits) {
    if constexpr (sizeof(T) == 2) {
      data()[i].bits = static_cast<uint16_t>(bits);
    } else {
      data()[i] = std::nan("");
    }
  }

  std::unique_ptr<char[]> bytes_;
  int64_t count_;
};

void RunThreads(void* threads, int64_t count, int64_t, ParallelFor::Task task, void* arg) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i = next++; i < count; i = next++) task(arg, i);
  };
  std::vector<std::thread> pool;
  for (int i = 0; i < *static_cast<int*>(threads); ++i) pool.emplace_back(work);
  for (std::thread& thread : pool) thread.join();
}

class Workspace {
 public:
  explicit Workspace(int64_t bytes) : bytes_(bytes), data_(std::aligned_alloc(64, Rounded())) {}
  ~Workspace() { std::free(data_); }
  void* get() { return data_; }

 private:
  size_t Rounded() const { return static_cast<size_t>((bytes_ + 64) / 64 * 64); }

  int64_t bytes_;
  void* data_;
};

template <typename Shape, typename Tensors>
void RunPlanned(const Shape& shape, const Tensors& tensors, const ParallelFor& parallel) {
  const auto pass = Plan<Tensors>(shape, parallel);
  Workspace workspace(pass.workspace_bytes());
  EXPECT_EQ(pass.Run(tensors, workspace.get(), parallel), "");
}

template <typename T>
void RunGroupNorm(const GroupNormShape& shape, const ParallelFor& parallel) {
  using U = ParamOf<T>;
  const int64_t size = shape.n * shape.a * shape.c * shape.b;
  const int64_t stats = shape.n * shape.groups;
  Exact<T> x(size), dy(size), side(size), y(size), dx(size), dside(size);
  Exact<U> gamma(shape.c), beta(shape.n * shape.c), mean(stats), rstd(stats), rest(2 * stats),
      dgamma(shape.c), dbeta(shape.n * shape.c);
  x.Fill(), dy.Fill(), side.Fill(), gamma.Fill(), beta.Fill();
  ForwardTensors<T> forward;
  forward.x = x.data();
  forward.gamma = gamma.data();
  forward.beta = beta.data();
  forward.side_input = side.data();
  forward.y = y.data();
  forward.mean = mean.data();
  forward.rstd = rstd.data();
  forward.rest = rest.data();
  RunPlanned(shape, forward, parallel);
  EXPECT_TRUE(y.Written());
  EXPECT_TRUE(mean.Written());
  EXPECT_TRUE(rstd.Written());
  EXPECT_TRUE(rest.Written());
  BackwardTensors<T> backward;
  backward.dy = dy.data();
  backward.x = x.data();
  backward.gamma = gamma.data();
  backward.beta = beta.data();
  backward.mean = mean.data();
  backward.rstd = rstd.data();
  backward.side_input = side.data();
  backward.dx = dx.data();
  backward.dgamma = dgamma.data();
  backward.dbeta = dbeta.data();
  backward.dside = dside.data();
  RunPlanned(shape, backward, parallel);
  EXPECT_TRUE(dx.Written());
  EXPECT_TRUE(dgamma.Written());
  EXPECT_TRUE(dbeta.Written());
  EXPECT_TRUE(dside.Written());

  Exact<T> again(size);
  backward.rest = rest.data();
  backward.y = again.data();
  RunPlanned(shape, backward, parallel);
  EXPECT_TRUE(again.Written());
  EXPECT_EQ(std::memcmp(again.data(), y.data(), size * sizeof(T)), 0);
}

GroupNormShape ShapeOf(const TestShape& row) {
  GroupNormShape shape = GroupNormShapeOf(row);
  shape.gamma = Affine::kPerChannel;
  shape.beta = Affine::kPerSample;
  shape.has_side_input = true;
  return shape;
}

class EveryTarget : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(SelectCpuTarget(GetParam())); }
  void TearDown() override { SelectCpuTarget(""); }
};

TEST_P(EveryTarget, GroupNormAroundTheVectorWidths) {
  for (int64_t width = 1; width <= 70; width += width < 36 ? 1 : 11) {
    for (const TestShape& row : {TestShape{"last", {2, 5, width}, {2}, 1},
                                 TestShape{"instance_norm", {1, 21, width}, {2}, width},
                                 TestShape{"first", {2, 4, width}, {1}, 2},
                                 TestShape{"middle", {1, 3, 2, width}, {2}, 1}}) {
      GroupNormShape shape = ShapeOf(row);
      for (Activation activation : {Activation::kLinear, Activation::kSilu}) {
        shape.activation = activation;
        RunGroupNorm<float16>(shape, ParallelFor());
        RunGroupNorm<bfloat16>(shape, ParallelFor());
        RunGroupNorm<float>(shape, ParallelFor());
        RunGroupNorm<double>(shape, ParallelFor());
      }
    }
  }
}

TEST_P(EveryTarget, GroupNormOnManyThreads) {
  int threads = 8;
  const ParallelFor parallel(RunThreads, &threads, threads, 1);
  for (const TestShape& row : TestShapes({"threads"})) {
    GroupNormShape shape = ShapeOf(row);
    shape.activation = Activation::kRelu;
    RunGroupNorm<bfloat16>(shape, parallel);
    RunGroupNorm<float>(shape, parallel);
  }
}

template <typename T, typename Tout>
void RunStandardizeWeights(const TestShape& row, const ParallelFor& parallel) {
  using U = ParamOf<T>;
  const auto& [name, size, axis, groups] = row;
  StandardizeWeightsCall call;
  call.w = call.dw_hat = {size.data(), static_cast<int>(size.size())};
  const int64_t no_gain = 0;
  call.gain = {&no_gain, 1};
  call.axis = axis.data();
  call.num_axes = static_cast<int>(axis.size());
  call.epsilon = 1e-5;
  call.epsilon_mode = "add_to_stddev";
  call.w_is_double = call.w_hat_is_double = call.params_are_double = std::is_same_v<T, double>;
  StandardizeWeightsShape shape;
  ASSERT_EQ(ValidateStandardizeWeights(call, &shape), "");
  shape.has_gain = true;

  const int64_t count = shape.outputs * shape.fan_in;
  Exact<T> w(count), dw(count);
  Exact<Tout> w_hat(count), dw_hat(count);
  Exact<U> gain(shape.outputs), mean(shape.outputs), rstd(shape.outputs), dgain(shape.outputs);
  w.Fill(), dw_hat.Fill(), gain.Fill();
  ForwardTensors<T, Tout> forward;
  forward.x = w.data();
  forward.gamma = gain.data();
  forward.y = w_hat.data();
  forward.mean = mean.data();
  forward.rstd = rstd.data();
  RunPlanned(shape, forward, parallel);
  EXPECT_TRUE(w_hat.Written());
  BackwardTensors<T, Tout> backward;
  backward.dy = dw_hat.data();
  backward.x = w.data();
  backward.gamma = gain.data();
  backward.mean = mean.data();
  backward.rstd = rstd.data();
  backward.dx = dw.data();
  backward.dgamma = dgain.data();
  RunPlanned(shape, backward, parallel);
  EXPECT_TRUE(dw.Written());
  EXPECT_TRUE(dgain.Written());
}

TEST_P(EveryTarget, StandardizeWeights) {
  int threads = 4;
  const ParallelFor parallel(RunThreads, &threads, threads, 1);
  for (const TestShape& row : TestShapes({"kernels", "large_kernels"})) {
    RunStandardizeWeights<float, float>(row, parallel);
    RunStandardizeWeights<float, float16>(row, parallel);
    RunStandardizeWeights<bfloat16, bfloat16>(row, parallel);
    RunStandardizeWeights<double, double>(row, parallel);
  }
}

INSTANTIATE_TEST_SUITE_P(, EveryTarget, testing::ValuesIn(CpuTargets()),
                         [](const auto& test) { return test.param; });

// An empty tensor has no element to touch.
TEST(Empty, GroupNorm) {
  for (const TestShape& row : TestShapes({"empty"})) {
    RunGroupNorm<float>(ShapeOf(row), ParallelFor());
  }
}

TEST(Empty, StandardizeWeights) {
  for (const TestShape& row : TestShapes({"empty_kernels"})) {
    RunStandardizeWeights<float, float>(row, ParallelFor());
  }
}

}  // namespace
}  // namespace tfgn
