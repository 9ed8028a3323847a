// How a Normalization is cut into the blocks of a CUDA grid, in plain C++. Depends on the shape and
// the device alone. Internal to the kernels.
//
// A sample is a matrix of rows and channels:
//
//              C channels
//          strip 0    strip 1
//         +---------+---------+
//         |  part   |  part   |   chunk 0
//   rows  +---------+---------+
//         |  part   |  part   |   chunk 1
//         +---------+---------+
//
//   strip    channels of whole groups: blocks exchange sums within a strip only
//   share    a division of the channels of a strip that is one group
//   chunk    rows of a strip
//   part     a chunk of a share: the work of one block for a sample
//   run      the B neighbours of a channel
//   piece    a division of a run, read by one warp
//   stroke   the vectors that a thread visits one after another (walk.cuh)
//   launch   of a kernel: one for the whole pass, in which blocks keep or exchange their sums, or
//            two, for sums and for elements
//   kernel   a __global__ function: one per pass and element type (forward.cu, backward.cu)
#ifndef TFGN_KERNELS_CUDA_PLAN_H_
#define TFGN_KERNELS_CUDA_PLAN_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/normalize.h"
#include "kernels/scratch.h"

namespace tfgn {

// What a plan depends on besides the Normalization and the device. Sizes are in bytes.
struct CudaTraits {
  int element_size = 0;     // of x
  int output_size = 0;      // of y or dx
  int gradient_size = 0;    // of dy; 0 in a forward pass
  int param_size = 0;       // of the type of all arithmetic
  bool one_launch = false;  // two launches are not allowed

  bool is_gradient() const { return gradient_size > 0; }
};

struct CudaPlan {
  CudaTraits traits;

  // By columns, a row is one of A and has C * B columns; a thread keeps to its columns in all rows.
  // By runs, a row is a piece of the B neighbours of every channel, read by one warp.
  bool by_columns = true;
  bool one_launch = true;  // else: sums in a first launch, elementwise work in a second
  bool held = false;       // a block keeps what it reads in shared memory until it writes
  bool aligned = true;     // by columns: every vector of a row begins at a multiple of its length

  int vector = 1;  // elements of x in 16 bytes
  int64_t group_channels = 1;
  int threads = 32;

  int64_t rows = 0;           // A, times pieces_of_run by runs
  int64_t pieces_of_run = 1;  // per channel and A
  int64_t piece = 0;          // elements of a piece; the last one has fewer

  int64_t strips = 1;          // per sample
  int64_t strip_channels = 1;  // of all strips but the last
  int64_t shares = 1;
  int64_t share_channels = 1;  // of all shares of a strip but the last
  int64_t chunks = 1;
  int64_t parts = 1;  // shares * chunks; the blocks of a cluster where one_launch
  // A block does the same part of this many samples in turn.
  int64_t samples = 1;
  int64_t sample_blocks = 1;  // N / samples, rounded up

  // By columns, `across` threads side by side, a vector each, in `down` rows. By runs, `across`
  // times `down` warps, where each of the `across` does one channel at a time.
  int across = 1, down = 1;
  // Neighbouring lanes of a vector whose sums a thread adds up. They belong to one group (forward)
  // or one channel (backward).
  int merged_lanes = 1;
  int keys = 1;    // sums per row of threads: columns / merged_lanes, or channels
  int groups = 1;  // of a block, at most
  int slots = 0;   // vectors that a thread holds

  // Offsets in shared memory, in bytes. Held elements are at 0.
  int held_gradients = 0;
  int part = 0;  // a Part (walk.cuh), kCudaPartBytes
  int entries = 0;
  int channel_sums = 0;
  int affine_sums = 0;
  int group_sums = 0;
  int group_results = 0;
  int shared_bytes = 0;

  int64_t blocks_per_sample() const { return strips * parts; }
  int64_t blocks() const { return sample_blocks * blocks_per_sample(); }
};

// Numbers in the sums of a group, and in what is computed from these.
inline constexpr int kCudaGroupNumbers = 4;
inline constexpr int kCudaPartBytes = 96;
// A choice: with fewer, narrow rows would leave a block less to sum before it meets the others.
inline constexpr int kCudaMaxThreads = 256;
// Blocks in a cluster that every device with clusters can run (CUDA C++ Programming Guide, "Thread
// Block Clusters").
inline constexpr int kCudaMaxCluster = 8;

// Blocks of kCudaMaxThreads threads that a multiprocessor runs at a time. They share 65536
// registers, which leaves a thread 80 where there are 3 and 128 where there are 2: as many as the
// compiler fills without spilling any. __launch_bounds__ holds it to that.
// `element_size`: of x.
constexpr int CudaForwardBlocks(int element_size) { return element_size == 4 ? 3 : 2; }
inline constexpr int kCudaBackwardBlocks = 2;

// The plan of a Normalization that is not empty. Plans are cached by shape, traits and device,
// because the search takes longer (10 us) than the launch of a kernel.
CudaPlan PlanCuda(const Normalization& p, const CudaTraits& traits, const CudaDevice& device);

// Whether the gradients of gamma and beta are sums over single groups.
inline bool AffineGradientsAreOfGroups(const Normalization& p) {
  return p.c == p.groups &&
         (p.n == 1 || (p.gamma != Affine::kPerChannel && p.beta != Affine::kPerChannel));
}

// What a pass keeps in scratch memory, in the type of its arithmetic.
struct CudaScratch {
  CudaScratch(const Normalization& p, const CudaPlan& plan, void* memory = nullptr);

  void* partial_sums = nullptr;  // [N, G, parts, kCudaGroupNumbers]
  void* affine_sums = nullptr;   // [sample_blocks, chunks, (dz, dz * xhat), C]
  int64_t bytes = 0;
};

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_PLAN_H_
