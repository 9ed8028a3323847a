// Plans: every element belongs to one block, blocks fit the device, and a large tensor fills it
// even at batch 1. group_norm_cuda_test.cc tests the kernels that run as planned.
#include "kernels/cuda/plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "shapes.h"

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

// A tensor as [N, A, C, B].
struct Case {
  int64_t n, a, c, b, groups;
};

Case CaseOf(const TestShape& row) {
  const GroupNormShape shape = GroupNormShapeOf(row);
  return {shape.n, shape.a, shape.c, shape.b, shape.groups};
}

// A kernel's outputs are the channels, and the groups, of one sample.
Case CaseOfKernel(TestShape row) {
  row.size.insert(row.size.begin(), 1);
  row.groups = row.size[++row.axis[0]];
  return CaseOf(row);
}

Case ChannelsFirst(const Case& test) { return {test.n, test.b, test.c, test.a, test.groups}; }

// Every row, in both layouts.
std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const TestShape& row :
       TestShapes({"group_norm", "vector_edges", "large", "samples", "emulated", "resnet50",
                   "ladder", "large_images", "other", "huge", "plans"})) {
    const Case test = CaseOf(row);
    cases.push_back(test);
    if (test.a != test.b) cases.push_back(ChannelsFirst(test));
  }
  return cases;
}

const CudaTraits kTraits[] = {{4, 4, 0, 4}, {4, 4, 4, 4}, {2, 2, 0, 4},
                              {2, 2, 2, 4}, {8, 8, 0, 8}, {8, 8, 8, 8}};

Normalization NormalizationOf(const Case& test) {
  Normalization p{test.n, test.a, test.c, test.b, test.groups};
  p.gamma = p.beta = Affine::kPerChannel;
  return p;
}

template <class F>
void ForEachPlan(F&& f) {
  const std::vector<Case> cases = AllCases();
  for (const NamedDevice& named : kDevices) {
    for (const Case& test : cases) {
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

// A cached plan is the one that a search finds, whatever was planned in between.
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
  std::vector<Case> cases = {CaseOf(TestShapeOf("resnet50", "conv1"))};
  cases[0].n = 1;
  for (const TestShape& row : TestShapes({"large_images"})) {
    cases.push_back(CaseOf(row));
    cases.push_back(ChannelsFirst(cases.back()));
  }
  cases.push_back(CaseOf(TestShapeOf("scaling", "24_channels")));
  for (const NamedDevice& named : kDevices) {
    for (const Case& test : cases) {
      for (const CudaTraits& traits : kTraits) {
        const CudaPlan plan = PlanCuda(NormalizationOf(test), traits, named.device);
        EXPECT_GE(plan.blocks() * plan.threads, named.device.multiprocessors * 96)
            << named.name << " " << test.a << " " << test.c << " " << traits.element_size;
      }
    }
  }
}

// docs/speed-of-light.md states this.
TEST(CudaPlan, FeatureMapsOfAResNetAreReadOnceWhereThereAreClusters) {
  for (const NamedDevice& named : kDevices) {
    if (named.device.compute_capability < 90) continue;
    for (const TestShape& row : TestShapes({"resnet50"})) {
      const Case last = CaseOf(row);
      if (last.a > 56 * 56) continue;
      for (const Case& layout : {last, ChannelsFirst(last)}) {
        for (int64_t n : {1, 2, 8, 32}) {
          for (const CudaTraits& traits : kTraits) {
            if (traits.element_size == 8) continue;
            Case test = layout;
            test.n = n;
            EXPECT_TRUE(PlanCuda(NormalizationOf(test), traits, named.device).held)
                << named.name << " " << n << "x" << test.a << "x" << test.c << "x" << test.b;
          }
        }
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

TEST(CudaPlan, WeightStandardizationIsOneLaunch) {
  for (const NamedDevice& named : kDevices) {
    for (const TestShape& row : TestShapes({"network_kernels"})) {
      const Case test = CaseOfKernel(row);
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
