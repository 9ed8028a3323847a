// The part of CUDA that the kernels use, on the CPU, so that tests can run their source without a
// device. The threads of a cluster are coroutines that run one at a time until they wait. If a
// thread waits for one that never arrives, the program ends.
#ifndef TFGN_TESTS_CUDA_EMULATION_CUDA_RUNTIME_H_
#define TFGN_TESTS_CUDA_EMULATION_CUDA_RUNTIME_H_

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1) : x(x) {}  // NOLINT(google-explicit-constructor): as CUDA's
};

namespace cuda_emulation {

// Whether the first round runs the threads from the last to the first.
inline bool backwards = false;
// Launches since the last query, and the most shared memory that one may ask for.
inline int launches = 0;
inline int64_t max_shared_bytes = 227 << 10;

struct Barrier {
  int waiting = 0;
  int64_t generation = 0;
};

constexpr int kWarp = 32;

// A cluster of blocks that run together.
class Cluster {
 public:
  Cluster(int blocks, int threads, int64_t shared_bytes)
      : blocks_(blocks), threads_(threads), barriers_(1 + blocks * (1 + threads / kWarp)) {
    // Shared memory is not initialized on a device. NaNs would show in the results.
    shared_bytes_ = (shared_bytes + 15) / 16 * 16;
    shared_.reset(new uint64_t[blocks * shared_bytes_ / 8 + 1]);
    std::memset(shared_.get(), 0xFF, blocks * shared_bytes_);
    exchange_.resize(static_cast<size_t>(blocks) * threads);
  }

  // Runs `kernel` in every thread. Blocks are numbered from first_block on. Every other round runs
  // the threads in reverse order.
  void Run(unsigned first_block, unsigned grid, const std::function<void()>& kernel) {
    constexpr size_t kStack = 128 << 10;
    const int count = blocks_ * threads_;
    static thread_local std::vector<std::unique_ptr<char[]>> stacks;  // for the next cluster, too
    while (stacks.size() < static_cast<size_t>(count)) stacks.emplace_back(new char[kStack]);
    contexts_.assign(count, {});
    waiting_.assign(count, {});
    done_.assign(count, false);
    kernel_ = &kernel;
    first_block_ = first_block;
    grid_ = grid;
    active = this;
    for (int i = 0; i < count; ++i) {
      ucontext_t& start = contexts_[i].start;
      getcontext(&start);
      start.uc_stack.ss_sp = stacks[i].get();
      start.uc_stack.ss_size = kStack;
      makecontext(&start, Entry, 0);
    }
    int left = count;
    for (int round = 0; left > 0; ++round) {
      progress_ = false;
      for (int turn = 0; turn < count; ++turn) {
        const int i = (round % 2 == 0) != backwards ? turn : count - 1 - turn;
        const Waiting& wait = waiting_[i];
        if (done_[i] || (wait.at != nullptr && wait.at->generation == wait.generation)) continue;
        current_ = i;
        Switch(&scheduler_, &contexts_[i]);
        if (done_[i]) {
          --left;
          progress_ = true;
        }
      }
      if (!progress_) {
        std::fprintf(stderr, "cuda_emulation: threads wait for others that do not come\n");
        std::abort();
      }
    }
  }

  int block() const { return current_ / threads_; }
  int thread() const { return current_ % threads_; }
  unsigned block_index() const { return first_block_ + static_cast<unsigned>(block()); }
  unsigned grid() const { return grid_; }
  int threads() const { return threads_; }
  char* shared(int block) const {
    return reinterpret_cast<char*>(shared_.get()) + block * shared_bytes_;
  }

  void WaitForCluster() { Wait(&barriers_[0], blocks_ * threads_); }
  void WaitForBlock() { Wait(&barriers_[1 + block()], threads_); }
  void WaitForWarp() {
    Wait(&barriers_[1 + blocks_ + block() * (threads_ / kWarp) + thread() / kWarp], kWarp);
  }

  template <typename T>
  T ShuffleDown(T value, int offset) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    std::memcpy(&exchange_[current_], &value, sizeof(T));
    WaitForWarp();
    const int from = thread() % kWarp + offset < kWarp ? current_ + offset : current_;
    T result;
    std::memcpy(&result, &exchange_[from], sizeof(T));
    WaitForWarp();
    return result;
  }

  static thread_local Cluster* active;

 private:
  // A stack and the place to continue. swapcontext() would save the signal mask in a system call at
  // every switch. AddressSanitizer would mark the whole stack as valid before a longjmp(), and make
  // another system call; the builtin in a function that it leaves alone only jumps.
  struct Context {
    ucontext_t start;
    void* point[5];
    bool started = false;
  };

  [[gnu::noinline, gnu::no_sanitize("address")]] static void Continue(Context* to) {
    __builtin_longjmp(to->point, 1);
  }

  [[gnu::noinline, gnu::no_sanitize("address")]] static void Switch(Context* from, Context* to) {
    from->started = true;
    if (__builtin_setjmp(from->point) != 0) return;
    if (to->started) Continue(to);
    setcontext(&to->start);
  }

  static void Entry() {
    (*active->kernel_)();
    active->done_[active->current_] = true;
    Continue(&active->scheduler_);
  }

  void Wait(Barrier* barrier, int count) {
    const int64_t generation = barrier->generation;
    if (++barrier->waiting == count) {
      barrier->waiting = 0;
      ++barrier->generation;
      progress_ = true;
    }
    waiting_[current_] = {barrier, generation};
    Switch(&contexts_[current_], &scheduler_);
  }

  // A thread waits until `at` leaves a generation.
  struct Waiting {
    const Barrier* at = nullptr;
    int64_t generation = 0;
  };

  const int blocks_, threads_;
  int64_t shared_bytes_;
  std::unique_ptr<uint64_t[]> shared_;
  std::vector<Barrier> barriers_;
  std::vector<uint64_t> exchange_;
  std::vector<Context> contexts_;
  std::vector<Waiting> waiting_;
  std::vector<bool> done_;
  Context scheduler_;
  const std::function<void()>* kernel_ = nullptr;
  unsigned first_block_ = 0, grid_ = 0;
  int current_ = 0;
  bool progress_ = false;
};
inline thread_local Cluster* Cluster::active = nullptr;

inline char* SharedMemory() { return Cluster::active->shared(Cluster::active->block()); }

struct Index {
  struct X {
    unsigned (*get)();
    operator unsigned() const { return get(); }
  } x;
};

}  // namespace cuda_emulation

inline constexpr cuda_emulation::Index threadIdx = {
    {[] { return static_cast<unsigned>(cuda_emulation::Cluster::active->thread()); }}};
inline constexpr cuda_emulation::Index blockIdx = {
    {[] { return cuda_emulation::Cluster::active->block_index(); }}};
inline constexpr cuda_emulation::Index blockDim = {
    {[] { return static_cast<unsigned>(cuda_emulation::Cluster::active->threads()); }}};
inline constexpr cuda_emulation::Index gridDim = {
    {[] { return cuda_emulation::Cluster::active->grid(); }}};

inline void __syncthreads() { cuda_emulation::Cluster::active->WaitForBlock(); }
template <typename T>
T __shfl_down_sync(unsigned, T value, int offset) {
  return cuda_emulation::Cluster::active->ShuffleDown(value, offset);
}
inline void __cluster_barrier_arrive() {}
inline void __cluster_barrier_wait() { cuda_emulation::Cluster::active->WaitForCluster(); }
inline const void* __cluster_map_shared_rank(const void* pointer, unsigned rank) {
  const auto* cluster = cuda_emulation::Cluster::active;
  const auto offset = static_cast<const char*>(pointer) - cluster->shared(cluster->block());
  return cluster->shared(static_cast<int>(rank)) + offset;
}

inline float __uint_as_float(unsigned bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
inline unsigned __float_as_uint(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}
inline float __fdividef(float a, float b) { return a / b; }
template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInsufficientDriver = 35 };
using cudaStream_t = struct CUstream_st*;
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }
inline const char* cudaGetErrorName(cudaError_t) { return "cudaErrorInvalidValue"; }

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <typename F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int bytes) {
  return bytes <= cuda_emulation::max_shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const unsigned cluster = config->numAttrs > 0 ? config->attrs[0].val.clusterDim.x : 1;
  if (config->gridDim.x == 0 || config->gridDim.x % cluster != 0 || config->blockDim.x == 0 ||
      config->blockDim.x > 1024 ||
      static_cast<int64_t>(config->dynamicSmemBytes) > cuda_emulation::max_shared_bytes) {
    return cudaErrorInvalidValue;
  }
  ++cuda_emulation::launches;
  const std::function<void()> call = [&] { kernel(arguments...); };
  for (unsigned block = 0; block < config->gridDim.x; block += cluster) {
    cuda_emulation::Cluster(static_cast<int>(cluster), static_cast<int>(config->blockDim.x),
                            static_cast<int64_t>(config->dynamicSmemBytes))
        .Run(block, config->gridDim.x, call);
  }
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}

#endif  // TFGN_TESTS_CUDA_EMULATION_CUDA_RUNTIME_H_
