#include "kernels/cuda/plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>

namespace tfgn {
namespace {

// Limits of the hardware are those of the CUDA C++ Programming Guide, "Technical Specifications per
// Compute Capability". A number said to be a choice was not measured. Such numbers decide which of
// the plans runs, all of which are right; `python -m benchmarks.gpu` shows how fast the chosen are.

constexpr int kWarp = 32;
// Backward, a block keeps six numbers per column: two sums each of its rows, of channels and over
// samples. 48 KiB, of the 64 that a block of compute capability 7.5, which has least, can ask for.
constexpr int64_t kMaxColumnBytes = 8192;
// By runs as much, in doubles.
constexpr int64_t kMaxRunChannels = kMaxColumnBytes / static_cast<int64_t>(sizeof(double));
// A choice: of a piece, a lane of the warp that reads it has 8 vectors of 16-bit elements, 16 of
// floats. Short pieces make runs of one sample the work of many blocks.
constexpr int64_t kMaxPiece = 2048;
// The most vectors that a thread reads at once (kBatch in forward.cu): rows of a thread come in
// multiples of it.
constexpr int64_t kBatch = 4;
// A choice: a part of two launches reads at least this much, 0.6 us of a multiprocessor at the rate
// below.
constexpr int64_t kMinPartBytes = 16 << 10;

// More vectors than a thread can hold, few enough that their bytes are counted in an int64.
constexpr int64_t kManySlots = 1 << 20;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

class Planner {
 public:
  Planner(const Normalization& p, const CudaTraits& traits, const CudaDevice& device)
      : p_(p), traits_(traits), device_(device), vector_(16 / traits.element_size) {
    // 128 floats are a vector for every lane of a warp, so that longer runs leave none idle; 16
    // rows are four batches for what a thread sets up once for its columns.
    by_columns_ = p.b < 128 || (p.a >= 16 && p.b < 256);
    if (by_columns_) {
      FindUnitOfColumns();
    } else {
      unit_ = p.channels_per_group();
      max_share_ = kMaxRunChannels;
    }
  }

  CudaPlan Best() {
    const int64_t channels = p_.channels_per_group();
    const int64_t bytes_of_unit = unit_ * (by_columns_ ? p_.b : 1) * traits_.element_size;
    for (int64_t units = 1;; units *= 2) {
      const int64_t strip = std::min(p_.c, units * unit_);
      const bool cut = channels > max_share_;
      // Wider strips read no faster than 512 bytes of a row, a vector for every lane of a warp, or
      // than 64 runs, 8 for every warp of a block.
      const bool wide = by_columns_ ? units * bytes_of_unit > 512 : strip > 64;
      if (units > 1 && (cut || wide)) break;
      for (int64_t parts = 1; parts <= kCudaMaxCluster; parts *= 2) {
        if (parts > 1 && device_.compute_capability < 90) break;
        for (bool held : {true, false}) Consider(strip, parts, true, held);
      }
      if (!traits_.one_launch) Consider(strip, SplitParts(strip), false, false);
      if (strip == p_.c) break;
    }
    Repeat(&best_);
    return best_;
  }

 private:
  // A strip is a multiple of the unit: whole groups that make whole vectors, where they can.
  void FindUnitOfColumns() {
    const int64_t max_columns = kMaxColumnBytes / traits_.param_size;
    const int64_t group = p_.channels_per_group() * p_.b;
    unit_ = p_.channels_per_group();
    max_share_ = std::max<int64_t>(1, max_columns / p_.b);
    if (p_.c * p_.b % vector_ == 0) {
      const int64_t groups = vector_ / std::gcd<int64_t>(group, vector_);
      if (groups * group <= max_columns) unit_ *= groups;
    }
    share_unit_ = vector_ / std::gcd<int64_t>(p_.b, vector_);
  }

  int64_t Rows() const { return by_columns_ ? p_.a : p_.a * Pieces(); }
  int64_t Pieces() const { return CeilDiv(p_.b, Piece()); }
  int64_t Piece() const { return RoundUp(CeilDiv(p_.b, CeilDiv(p_.b, kMaxPiece)), vector_); }
  int64_t BytesPerElement() const { return traits_.element_size + traits_.gradient_size; }
  int64_t ReadBytes() const { return p_.n * p_.a * p_.c * p_.b * BytesPerElement(); }

  int64_t SplitParts(int64_t strip) const {
    const int64_t strips = p_.n * CeilDiv(p_.c, strip);
    const int64_t wanted = CeilDiv(Resident(kCudaMaxThreads) * device_.multiprocessors, strips);
    return std::clamp<int64_t>(ReadBytes() / strips / kMinPartBytes, 1, wanted);
  }

  // Cuts a strip into about `parts` parts.
  void Cut(int64_t strip, int64_t parts, CudaPlan* plan) const {
    const int64_t channels = p_.channels_per_group(), rows = Rows();
    plan->strip_channels = strip;
    plan->strips = CeilDiv(p_.c, strip);
    int64_t shares = 1, share = strip;
    if (strip == channels) {
      shares = CeilDiv(channels, max_share_);
      // By runs rows may be few: channels are divided first.
      const int64_t by_rows = by_columns_ ? std::min(rows, parts) : 1;
      const int64_t unit = by_columns_ ? share_unit_ : 1;
      shares = std::max(shares, std::min(parts / by_rows, CeilDiv(channels, unit)));
      if (shares > 1) {
        share = RoundUp(CeilDiv(channels, shares), unit);
        if (share > max_share_) share = std::max(unit, max_share_ / unit * unit);
        shares = CeilDiv(channels, share);
      }
    }
    plan->shares = shares;
    plan->share_channels = share;
    plan->chunks = std::clamp<int64_t>(parts / shares, 1, rows);
    plan->parts = plan->shares * plan->chunks;
  }

  void Consider(int64_t strip, int64_t parts, bool one_launch, bool held) {
    CudaPlan plan;
    plan.traits = traits_;
    plan.by_columns = by_columns_;
    plan.one_launch = one_launch;
    plan.held = held;
    plan.vector = static_cast<int>(vector_);
    plan.group_channels = p_.channels_per_group();
    plan.rows = Rows();
    if (!by_columns_) {
      plan.piece = Piece();
      plan.pieces_of_run = Pieces();
    }
    Cut(strip, parts, &plan);
    const int64_t most = device_.compute_capability < 90 ? 1 : kCudaMaxCluster;
    if (one_launch && plan.parts > most) return;
    plan.groups = static_cast<int>(plan.shares > 1 ? 1 : strip / p_.channels_per_group());
    const int64_t rows = CeilDiv(plan.rows, plan.chunks);
    if (by_columns_) {
      ArrangeColumns(rows, &plan);
    } else {
      ArrangeRuns(rows, &plan);
    }
    if (!LayOut(&plan)) return;
    const double time = Time(plan);
    if (best_time_ < 0 || time < best_time_) {
      best_time_ = time;
      best_ = plan;
    }
  }

  void ArrangeColumns(int64_t rows, CudaPlan* plan) const {
    const int64_t columns = plan->share_channels * p_.b, row = p_.c * p_.b;
    const int64_t vectors = CeilDiv(columns, vector_);
    plan->aligned = row % vector_ == 0 &&
                    (plan->strips == 1 || plan->strip_channels * p_.b % vector_ == 0) &&
                    (plan->shares == 1 || columns % vector_ == 0);
    const int64_t across = std::min<int64_t>(vectors, kCudaMaxThreads);
    int64_t per_thread = CeilDiv(rows, kCudaMaxThreads / across);
    if (per_thread > 1) per_thread = RoundUp(per_thread, kBatch);
    const int64_t down = CeilDiv(rows, per_thread);
    int64_t merged = vector_;
    if (traits_.is_gradient()) {
      merged = std::gcd(merged, p_.b);
    } else if (plan->shares == 1) {
      merged = std::gcd(merged, p_.channels_per_group() * p_.b);
    } else {
      // Columns of the last share, so of all the others and of the whole.
      merged = std::gcd(std::gcd(merged, columns), p_.channels_per_group() * p_.b);
    }
    plan->merged_lanes = static_cast<int>(merged);
    plan->keys = static_cast<int>(columns / merged);
    plan->across = static_cast<int>(across);
    plan->down = static_cast<int>(down);
    plan->threads = static_cast<int>(RoundUp(across * down, kWarp));
    plan->slots = static_cast<int>(
        std::min<int64_t>(CeilDiv(vectors, across) * CeilDiv(rows, down), kManySlots));
  }

  void ArrangeRuns(int64_t rows, CudaPlan* plan) const {
    constexpr int64_t kWarps = kCudaMaxThreads / kWarp;
    const int64_t channels = plan->share_channels;
    const int64_t down = std::min(rows, std::max<int64_t>(1, kWarps / channels));
    const int64_t across = std::min(kWarps / down, channels);
    plan->merged_lanes = vector_;
    plan->keys = static_cast<int>(channels);
    plan->down = static_cast<int>(down);
    plan->across = static_cast<int>(across);
    plan->threads = static_cast<int>(kWarp * across * down);
    // A run that does not begin at a vector touches one more.
    const int64_t vectors = CeilDiv(CeilDiv(plan->piece, vector_) + 1, kWarp);
    plan->slots = static_cast<int>(
        std::min<int64_t>(CeilDiv(channels, across) * CeilDiv(rows, down) * vectors, kManySlots));
  }

  // Whether shared memory suffices.
  bool LayOut(CudaPlan* plan) const {
    int64_t at = 0;
    const auto take = [&](int64_t bytes) {
      const int64_t begin = at;
      at += RoundUp(bytes, 16);
      return static_cast<int>(std::min<int64_t>(begin, 1 << 30));
    };
    const int64_t held = plan->held ? int64_t{1} * plan->slots * plan->threads * vector_ : 0;
    take(held * traits_.element_size);
    plan->held_gradients = take(held * traits_.gradient_size);
    plan->part = take(kCudaPartBytes);
    // Forward: mean in two parts and squared deviations, and a count per row. Backward: two sums.
    const int64_t number = traits_.param_size, down = plan->down;
    plan->entries = take(
        number * (traits_.is_gradient() ? 2 * down * plan->keys : 3 * down * plan->keys + down));
    plan->channel_sums = take(traits_.is_gradient() ? 2 * number * plan->share_channels : 0);
    plan->affine_sums = take(traits_.is_gradient() ? 2 * number * plan->share_channels : 0);
    plan->group_sums = take(number * kCudaGroupNumbers * plan->groups);
    plan->group_results = take(number * kCudaGroupNumbers * plan->groups);
    if (at > device_.shared_per_block) return false;
    plan->shared_bytes = static_cast<int>(at);
    return true;
  }

  // Blocks of `threads` threads that a multiprocessor runs at a time, for the registers they take.
  int64_t Resident(int threads) const {
    const int blocks =
        traits_.is_gradient() ? kCudaBackwardBlocks : CudaForwardBlocks(traits_.element_size);
    return blocks * kCudaMaxThreads / threads;
  }

  // Gives blocks several samples where there are far more than the device runs at a time: they
  // start once, and add up the gradients of gamma and beta.
  void Repeat(CudaPlan* plan) const {
    // Every multiprocessor has this many rounds of blocks at least, so that one which begins its
    // last round late keeps the others waiting for a quarter of the time at most.
    constexpr int64_t kRounds = 4;
    const int64_t blocks = p_.n * plan->blocks_per_sample();
    const int64_t at_once = device_.multiprocessors * ResidentBlocks(*plan) * kRounds;
    const bool per_sample = p_.gamma == Affine::kPerSample || p_.beta == Affine::kPerSample;
    if (plan->one_launch && !(traits_.is_gradient() && per_sample)) {
      plan->samples = std::clamp<int64_t>(blocks / at_once, 1, p_.n);
    }
    plan->sample_blocks = CeilDiv(p_.n, plan->samples);
  }

  int64_t ResidentBlocks(const CudaPlan& plan) const {
    constexpr int64_t kReserved =
        1024;  // shared memory that CUDA keeps of every block, from 8.0 on
    const int64_t by_memory = device_.shared_per_multiprocessor / (plan.shared_bytes + kReserved);
    return std::max<int64_t>(1, std::min(Resident(plan.threads), by_memory));
  }

  // An estimate, in microseconds, to choose by.
  double Time(const CudaPlan& plan) const {
    // Bytes per microsecond of a multiprocessor: an H100 SXM has 132, and 3.35 TB/s of memory (its
    // data sheet). Another device's rate differs by one factor for all plans.
    constexpr double kRate = 25e3;
    // Threads that it takes to reach this rate: two vectors of 16 bytes of each are 16 KiB under
    // way, which a latency of 0.65 us takes at this rate (Little's law).
    constexpr double kThreads = 512;
    // A choice: what a launch costs behind another, and the least time of a block, which reads,
    // meets the others at barriers, and writes.
    constexpr double kLaunch = 2.5, kBlock = 2;
    // The time of a byte from L2 beside one from memory. NVIDIA states 5120 bytes per clock of an
    // A100's L2, 0.22 of the time; with writes beside it, and in the two halves of a newer L2, it
    // gives less: a choice.
    constexpr double kFromL2 = 0.4;
    // A choice: a block that has a multiprocessor to itself does not write while it reads.
    constexpr double kAlone = 1.2;
    const double multiprocessors = device_.multiprocessors;
    const double blocks = static_cast<double>(p_.n * plan.blocks_per_sample());
    const double read = static_cast<double>(ReadBytes());
    const double written = read * traits_.output_size / static_cast<double>(BytesPerElement());
    const int64_t resident = ResidentBlocks(plan);
    const double waves = blocks / (multiprocessors * static_cast<double>(resident));

    // What is read again comes from L2 where all that is between the two readings fits in half: the
    // output passes through it, too.
    const double between = plan.one_launch ? std::min(1.0, 1 / waves) * read : read;
    const double again = plan.held ? 0 : between <= device_.l2_bytes / 2.0 ? kFromL2 : 1;
    const double parallel = std::min(multiprocessors, blocks * plan.threads / kThreads);
    double bytes = (read * (1 + again) + written) / Efficiency(plan);
    if (waves > 1) {
      bytes *= std::ceil(waves) / waves;
      if (plan.one_launch && resident == 1) bytes *= kAlone;
    }
    const double launches = plan.one_launch ? 1 : 2;
    return std::max(bytes / (kRate * parallel), kBlock * launches * std::max(1.0, waves)) +
           kLaunch * launches;
  }

  // The part of what memory moves that was asked for. Memory moves sectors of 32 bytes, L2 keeps
  // lines of four: a segment of a row that is not as long as a line shares its ends with another
  // block's, and one below a sector wastes half of it and more. The steps between are a choice, as
  // is what elements cost that are read one by one.
  double Efficiency(const CudaPlan& plan) const {
    if (!by_columns_) return 1;
    constexpr double kOneByOne = 0.6;
    const double aligned = plan.aligned ? 1 : kOneByOne;
    const int64_t segment = plan.share_channels * p_.b * traits_.element_size;
    if (plan.strips * plan.shares == 1 || segment >= 128) return aligned;
    return aligned * (segment >= 64 ? 0.9 : segment >= 32 ? 0.75 : 0.4);
  }

  const Normalization& p_;
  const CudaTraits& traits_;
  const CudaDevice& device_;
  const int64_t vector_;
  bool by_columns_ = true;
  int64_t unit_ = 1;        // channels
  int64_t share_unit_ = 1;  // channels that make whole vectors
  int64_t max_share_ = 1;   // channels
  CudaPlan best_;
  double best_time_ = -1;
};

}  // namespace

CudaPlan PlanCuda(const Normalization& p, const CudaTraits& traits, const CudaDevice& device) {
  // All that the planner looks at.
  using Key = std::array<int64_t, 17>;
  const Key key = {p.n,
                   p.a,
                   p.c,
                   p.b,
                   p.groups,
                   static_cast<int64_t>(p.gamma),
                   static_cast<int64_t>(p.beta),
                   traits.element_size,
                   traits.output_size,
                   traits.gradient_size,
                   traits.param_size,
                   traits.one_launch,
                   device.compute_capability,
                   device.multiprocessors,
                   device.shared_per_block,
                   device.shared_per_multiprocessor,
                   device.l2_bytes};
  // A bound on memory, 2 MB; few programs have more shapes at a time, and one that does plans anew.
  constexpr size_t kMostPlans = 4096;
  static std::mutex mutex;
  static auto* const plans = new std::map<Key, CudaPlan>;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (const auto found = plans->find(key); found != plans->end()) return found->second;
  }
  const CudaPlan plan = Planner(p, traits, device).Best();
  const std::lock_guard<std::mutex> lock(mutex);
  if (plans->size() >= kMostPlans) plans->clear();
  plans->emplace(key, plan);
  return plan;
}

CudaScratch::CudaScratch(const Normalization& p, const CudaPlan& plan, void* memory) {
  Scratch scratch(memory);
  const auto numbers = [&](int64_t count) {
    return static_cast<void*>(scratch.Take<char>(count * plan.traits.param_size));
  };
  if (!plan.one_launch) partial_sums = numbers(p.n * p.groups * plan.parts * kCudaGroupNumbers);
  const bool has_affine = p.gamma != Affine::kAbsent || p.beta != Affine::kAbsent;
  if (plan.traits.is_gradient() && has_affine && !AffineGradientsAreOfGroups(p))
    affine_sums = numbers(plan.sample_blocks * plan.chunks * 2 * p.c);
  bytes = scratch.used();
}

}  // namespace tfgn
