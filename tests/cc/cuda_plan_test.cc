// What a plan promises: every element is one block's, blocks fit the device, a large tensor fills
// it, even at batch 1. What kernels make of plans is tested in group_norm_cuda_test.cc.
#include "kernels/cuda/plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace tfgn {
namespace {

struct NamedDevice {
  const char* name;
  CudaDevice device;
};

const NamedDevice kDevices[] = {
    {"T4", {75, 40, 64 << 10, 64 << 10, 4 << 20}},
    {"A100", {80, 108, 163 << 10, 164 << 10, 40 << 20}},
    {"laptop", {89, 24, 99 << 10, 100 << 10, 24 << 20}},
    {"H200", {90, 132, 227 << 10, 228 << 10, 50 << 20}},
    {"B200", {100, 148, 227 << 10, 228 << 10, int64_t{126} << 20}},
};

struct Case {
  int64_t n, a, c, b, groups;
};

// The shapes of tests/support/cases.py, of benchmarks/cases.py, extremes, and tensors of more than 2^31
// elements.
const Case kCases[] = {{5, 1, 32, 1, 8},
                       {3, 9, 30, 1, 5},
                       {3, 1, 30, 9, 5},
                       {2, 5, 24, 7, 3},
                       {1, 1, 64, 30, 32},
                       {3, 20, 12, 1, 12},
                       {2, 36, 7, 1, 1},
                       {3, 72, 1, 1, 1},
                       {3, 1, 1, 72, 1},
                       {2, 3, 6, 300, 3},
                       {2, 6, 8192, 1, 2},
                       {1, 1, 3000, 1, 1},
                       {2, 2, 200, 12, 1},
                       {300, 9, 8, 1, 2},
                       {2, 12544, 64, 1, 32},
                       {2, 3136, 256, 1, 32},
                       {2, 784, 512, 1, 32},
                       {2, 196, 1024, 1, 32},
                       {2, 49, 2048, 1, 32},
                       {32, 3136, 256, 1, 32},
                       {2, 4096, 320, 1, 32},
                       {2, 1, 320, 4096, 32},
                       {1, 262144, 128, 1, 32},
                       {1, 1, 128, 262144, 32},
                       {1, 1048576, 128, 1, 32},
                       {1, 2097152, 32, 1, 8},
                       {1, 240000, 30, 1, 5},
                       {65536, 1, 512, 1, 1},
                       {8, 100, 65536, 1, 1},
                       {8, 1, 65536, 100, 1},
                       {8, 4, 65537, 200, 1},
                       {2, 1, 4099, 255, 4099},
                       {1, 1, 1, int64_t{1} << 33, 1},
                       {1, int64_t{1} << 33, 1, 1, 1},
                       {1, int64_t{1} << 30, 24, 1, 3},
                       {int64_t{1} << 32, 1, 2, 1, 1}};

const CudaTraits kTraits[] = {{4, 4, 0, 4}, {4, 4, 4, 4}, {2, 2, 0, 4},
                              {2, 2, 2, 4}, {8, 8, 0, 8}, {8, 8, 8, 8}};

Normalization NormalizationOf(const Case& test) {
  Normalization p{test.n, test.a, test.c, test.b, test.groups};
  p.gamma = p.beta = Affine::kPerChannel;
  return p;
}

template <class F>
void ForEachPlan(F&& f) {
  for (const NamedDevice& named : kDevices) {
    for (const Case& test : kCases) {
      for (const CudaTraits& traits : kTraits) {
        const Normalization p = NormalizationOf(test);
        SCOPED_TRACE(std::string(named.name) + " [" + std::to_string(p.n) + "," +
                     std::to_string(p.a) + "," + std::to_string(p.c) + "," + std::to_string(p.b) +
                     "] in " + std::to_string(p.groups) + " groups of " +
                     std::to_string(traits.element_size) + " bytes" +
                     (traits.is_gradient() ? ", gradient" : ""));
        f(p, traits, named.device, PlanCuda(p, traits, named.device));
      }
    }
  }
}

// A plan that is known is the plan that a search finds, whatever was planned in between.
TEST(CudaPlan, IsFoundAgain) {
  const auto is_same = [](const CudaPlan& a, const CudaPlan& b) {
    return a.one_launch == b.one_launch && a.held == b.held && a.threads == b.threads &&
           a.strips == b.strips && a.parts == b.parts && a.samples == b.samples &&
           a.shared_bytes == b.shared_bytes && a.traits.element_size == b.traits.element_size;
  };
  const CudaDevice device = kDevices[1].device;
  Normalization p = NormalizationOf(Case{4096, 9, 64, 1, 8});
  const CudaPlan per_channel = PlanCuda(p, kTraits[1], device);
  p.gamma = Affine::kPerSample;
  const CudaPlan per_sample = PlanCuda(p, kTraits[1], device);
  EXPECT_GT(per_channel.samples, 1);
  EXPECT_EQ(per_sample.samples, 1);
  for (int64_t n = 1; n < 5000; ++n) {  // more than are kept
    PlanCuda(NormalizationOf(Case{n, 1, 8, 1, 8}), kTraits[0], device);
  }
  EXPECT_TRUE(is_same(per_sample, PlanCuda(p, kTraits[1], device)));
  EXPECT_TRUE(is_same(per_sample, PlanCuda(p, kTraits[1], device)));
  p.gamma = Affine::kPerChannel;
  EXPECT_TRUE(is_same(per_channel, PlanCuda(p, kTraits[1], device)));
  EXPECT_FALSE(is_same(per_channel, PlanCuda(p, kTraits[3], device)));
  EXPECT_FALSE(is_same(per_channel, PlanCuda(p, kTraits[1], kDevices[0].device)));
}

TEST(CudaPlan, FitsTheDevice) {
  ForEachPlan(
      [](const Normalization&, const CudaTraits&, const CudaDevice& device, const CudaPlan& plan) {
        EXPECT_GT(plan.shared_bytes, 0);
        EXPECT_LE(plan.shared_bytes, device.shared_per_block);
        EXPECT_EQ(plan.threads % 32, 0);
        EXPECT_GE(plan.threads, plan.across * plan.down);
        EXPECT_LE(plan.threads, kCudaMaxThreads);
        EXPECT_GT(plan.blocks(), 0);
        EXPECT_LE(plan.blocks_per_sample(), std::numeric_limits<int32_t>::max());
        if (plan.one_launch) {
          EXPECT_LE(plan.parts, device.compute_capability >= 90 ? kCudaMaxCluster : 1);
        } else {
          EXPECT_EQ(plan.samples, 1);
        }
      });
}

TEST(CudaPlan, CoversEveryElementOnce) {
  ForEachPlan(
      [](const Normalization& p, const CudaTraits&, const CudaDevice&, const CudaPlan& plan) {
        EXPECT_EQ(plan.sample_blocks, (p.n + plan.samples - 1) / plan.samples);
        EXPECT_EQ(plan.parts, plan.shares * plan.chunks);
        // Strips of whole groups, shares of one.
        EXPECT_EQ(plan.strip_channels % plan.group_channels, 0);
        EXPECT_GT(plan.strip_channels * plan.strips, p.c - 1);
        EXPECT_LT(plan.strip_channels * (plan.strips - 1), p.c);
        if (plan.shares > 1) {
          EXPECT_EQ(plan.strip_channels, plan.group_channels);
        }
        EXPECT_GT(plan.share_channels * plan.shares, plan.strip_channels - 1);
        EXPECT_LT(plan.share_channels * (plan.shares - 1), plan.strip_channels);
        EXPECT_LE(plan.chunks, plan.rows);
        if (plan.by_columns) {
          EXPECT_EQ(plan.rows, p.a);
        } else {
          EXPECT_EQ(plan.rows, p.a * plan.pieces_of_run);
          EXPECT_EQ(plan.piece % plan.vector, 0);
          EXPECT_GE(plan.piece * plan.pieces_of_run, p.b);
          EXPECT_LT(plan.piece * (plan.pieces_of_run - 1), p.b);
        }
      });
}

TEST(CudaPlan, AddsUpLanesOfOneGroupOrChannelOnly) {
  ForEachPlan([](const Normalization& p, const CudaTraits& traits, const CudaDevice&,
                 const CudaPlan& plan) {
    if (!plan.by_columns) return;
    const int64_t merged = plan.merged_lanes;
    EXPECT_EQ((traits.is_gradient() ? p.b : plan.group_channels * p.b) % merged, 0);
    EXPECT_EQ(plan.share_channels * p.b % merged, 0);
    EXPECT_EQ(plan.share_channels * p.b, plan.keys * merged);
    if (plan.aligned) {
      EXPECT_EQ(p.c * p.b % plan.vector, 0);
      if (plan.strips > 1) {
        EXPECT_EQ(plan.strip_channels * p.b % plan.vector, 0);
      }
      if (plan.shares > 1) {
        EXPECT_EQ(plan.share_channels * p.b % plan.vector, 0);
      }
    }
  });
}

TEST(CudaPlan, HoldsWhatABlockReads) {
  ForEachPlan(
      [](const Normalization& p, const CudaTraits&, const CudaDevice&, const CudaPlan& plan) {
        if (!plan.held) return;
        EXPECT_TRUE(plan.one_launch);
        const int64_t rows = (plan.rows + plan.chunks - 1) / plan.chunks;
        const int64_t row = plan.by_columns ? p.b : plan.piece;
        EXPECT_GE(int64_t{1} * plan.slots * plan.threads * plan.vector,
                  plan.share_channels * std::min(row, p.b) * rows);
      });
}

TEST(CudaPlan, LargeImagesOccupyTheDeviceAtBatch1) {
  for (const NamedDevice& named : kDevices) {
    for (const Case& test :
         {Case{1, 12544, 64, 1, 32}, Case{1, 262144, 128, 1, 32}, Case{1, 1, 128, 262144, 32},
          Case{1, 1048576, 128, 1, 32}, Case{1, 2097152, 32, 1, 8}, Case{1, 240000, 24, 1, 3}}) {
      for (const CudaTraits& traits : kTraits) {
        const CudaPlan plan = PlanCuda(NormalizationOf(test), traits, named.device);
        EXPECT_GE(plan.blocks() * plan.threads, named.device.multiprocessors * 96)
            << named.name << " " << test.a << " " << test.c << " " << traits.element_size;
      }
    }
  }
}

TEST(CudaPlan, ScratchMemoryIsSmall) {
  ForEachPlan([](const Normalization& p, const CudaTraits& traits, const CudaDevice&,
                 const CudaPlan& plan) {
    const int64_t bytes = p.n * p.a * p.c * p.b * traits.element_size;
    EXPECT_LE(CudaScratch(p, plan).bytes, bytes / 2 + (64 << 20));
  });
}

// Every kernel of every ResNet-50, and a dense layer of VGG.
TEST(CudaPlan, WeightStandardizationIsOneLaunch) {
  for (const NamedDevice& named : kDevices) {
    for (const Case& test :
         {Case{1, 147, 64, 1, 64}, Case{1, 64, 256, 1, 256}, Case{1, 4608, 512, 1, 512},
          Case{1, 1024, 2048, 1, 2048}, Case{1, 1, 512, 4608, 512}, Case{1, 25088, 4096, 1, 4096},
          Case{1, 1, 1, int64_t{1} << 31, 1}}) {
      for (CudaTraits traits : kTraits) {
        traits.one_launch = true;
        Normalization p = NormalizationOf(test);
        p.beta = Affine::kAbsent;
        p.gamma = Affine::kPerSample;
        const CudaPlan plan = PlanCuda(p, traits, named.device);
        EXPECT_TRUE(plan.one_launch);
        EXPECT_LE(plan.shared_bytes, named.device.shared_per_block);
        EXPECT_TRUE(AffineGradientsAreOfGroups(p));
        EXPECT_EQ(CudaScratch(p, plan).bytes, 0);
      }
    }
  }
}

}  // namespace
}  // namespace tfgn
