// The forward pass of a Normalization: moments, then one elementwise pass.
#include "kernels/cpu/pass.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/forward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/activation-inl.h"
#include "kernels/cpu/reduce-inl.h"
#include "kernels/cpu/stages.h"
#include "kernels/cpu/tables-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

// Moments from the sum and the sum of squares of `count` numbers less `shift`. The shift is the
// mean of a part of them, which bounds the cancellation.
HWY_INLINE Moments ShiftedMoments(double count, double shift, double sum, double squares) {
  const double m2 = squares - sum * (sum / count);
  return {count, shift + sum / count, m2 < 0 ? 0 : m2};
}

// Moments of a run of neighbours.
template <typename T>
Moments RunMoments(const T* x, int64_t length) {
  using CT = ParamOf<T>;
  const hn::ScalableTag<CT> d;
  // At least 128: among a few numbers, one that differs from the rest weighs too much.
  const int64_t sampled = std::min(length, std::max<int64_t>(128, length / CpuPlan::kShiftShare));
  const auto one_nth = hn::Set(d, CT(1) / static_cast<CT>(sampled));
  double shift = 0, unused = 0;
  SumRun<CT>(sampled, &shift, &unused, [&](int64_t j, auto lanes, auto& sum, auto&) HWY_ATTR {
    sum = hn::MulAdd(Read(d, x + j, lanes), one_nth, sum);
  });

  const auto shifts = hn::Set(d, static_cast<CT>(shift));
  double sum = 0, squares = 0;
  SumRun<CT>(length, &sum, &squares, [&](int64_t j, auto lanes, auto& s, auto& q) HWY_ATTR {
    const auto delta = Covered(d, hn::Sub(Read(d, x + j, lanes), shifts), lanes);
    s = hn::Add(s, delta);
    q = hn::MulAdd(delta, delta, q);
  });
  return ShiftedMoments(static_cast<double>(length), static_cast<CT>(shift), sum, squares);
}

// z = (x - mean) * scale + shift + side_input, with PerColumn of each or a Uniform.
template <class Coefficient>
struct ForwardCoefficients {
  Coefficient mean, scale, shift;
};

template <typename T, typename Tout>
class ForwardPass {
  using Activations = ActivationsOf<T, Tout>;
  using CT = ParamOf<T>;
  using Statistic = SplitStatistic<hn::ScalableTag<double>>;
  enum Table { kMean, kScale, kShift };

 public:
  ForwardPass(const CpuPlan& plan, const ForwardTensors<T, Tout>& t, void* workspace)
      : plan_(plan), p_(plan.p), t_(t), scratch_(plan, Scratch(workspace)) {}

  // --- the work of stages, for items [begin, end) of sample n ---

  void MomentsOfColumns(int64_t n, int64_t begin, int64_t end) const {
    plan_.ForEachTile(begin, end,
                      [&](int64_t chunk, Tile tile) HWY_ATTR { MomentsOfTile(n, chunk, tile); });
  }

  void MomentsOfRuns(int64_t n, int64_t begin, int64_t end) const {
    const T* x = t_.x + n * p_.a * p_.c * p_.b;
    CpuPlan::ForEachPiece(begin, end, p_.groups, p_.channels_per_group() * p_.b,
                          [&](int64_t offset, int64_t length, int64_t g, int64_t unit) HWY_ATTR {
                            const Moments m = RunMoments(x + offset, length);
                            Means(n, unit)[g] = m.mean;
                            SquaredDeviations(n, unit)[g] = m.m2;
                          });
  }

  // Statistics and coefficients of groups [first, last).
  void Finish(int64_t n, int64_t first, int64_t last) const {
    const hn::ScalableTag<double> d;
    constexpr size_t kMaxLanes = HWY_MAX_BYTES / sizeof(double);
    HWY_ALIGN double m2s[kMaxLanes], rstds[kMaxLanes] = {};
    ForEachVector(d, last - first, [&](int64_t j, auto lanes) HWY_ATTR {
      // Moments::Merge for a vector of groups, which have the same counts.
      const int64_t g = first + j;
      double count = 0;
      auto mean = hn::Zero(d), m2 = hn::Zero(d);
      for (int64_t unit = 0; unit < plan_.group_units; ++unit) {
        const double added = static_cast<double>(UnitCount(unit)), total = count + added;
        const double share = added / total;
        const auto delta = hn::Sub(Read(d, Means(n, unit) + g, lanes), mean);
        mean = hn::MulAdd(delta, hn::Set(d, share), mean);
        m2 = hn::Add(m2, hn::MulAdd(hn::Mul(delta, delta), hn::Set(d, count * share),
                                    Read(d, SquaredDeviations(n, unit) + g, lanes)));
        count = total;
      }
      hn::Store(m2, d, m2s);
      const int64_t groups = std::min(last - g, static_cast<int64_t>(hn::Lanes(d)));
      for (int64_t i = 0; i < groups; ++i) rstds[i] = p_.Rstd(m2s[i]);
      const Statistic split_mean = Split<CT>(d, mean),
                      split_rstd = Split<CT>(d, hn::Load(d, rstds));
      WriteNarrow(split_mean.rounded, d, t_.mean + n * p_.groups + g, lanes);
      WriteNarrow(split_rstd.rounded, d, t_.rstd + n * p_.groups + g, lanes);
      if (t_.rest != nullptr) {
        CT* const rest = t_.rest + 2 * n * p_.groups + g;
        WriteNarrow(split_mean.rest, d, rest, lanes);
        WriteNarrow(split_rstd.rest, d, rest + p_.groups, lanes);
      }
      if (p_.channels_per_group() == 1) {
        FillTables(n, g, g + groups, split_mean, split_rstd.Sum());
        return;
      }
      HWY_ALIGN double means[kMaxLanes], rests[kMaxLanes];
      hn::Store(split_mean.rounded, d, means);
      hn::Store(split_mean.rest, d, rests);
      hn::Store(split_rstd.Sum(), d, rstds);
      for (int64_t i = 0; i < groups; ++i) {
        const int64_t c = (g + i) * p_.channels_per_group();
        const Statistic of_group = {hn::Set(d, means[i]), hn::Set(d, rests[i])};
        FillTables(n, c, c + p_.channels_per_group(), of_group, hn::Set(d, rstds[i]));
      }
    });
  }

  void NormalizeColumns(int64_t n, int64_t begin, int64_t end) const {
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      plan_.ForEachTile(begin, end, [&](int64_t chunk, Tile tile) HWY_ATTR {
        const auto table = [&](Table i) {
          return PerColumn<CT>{scratch_.tables.Row(n, i) + tile.begin};
        };
        const ForwardCoefficients<PerColumn<CT>> k = {table(kMean), table(kScale), table(kShift)};
        const int64_t sample = n * p_.a * p_.c * p_.b + tile.begin, cols = plan_.cols;
        const int64_t first = plan_.ChunkBegin(chunk), last = plan_.ChunkEnd(chunk);
        const int64_t tail = plan_.ChunkTail(chunk);
        NormalizeRows<activation()>(sample + first * cols, cols, last - first, tile.width, k);
        if (tail > 0) NormalizeRows<activation()>(sample + last * cols, cols, 1, tail, k);
      });
    });
  }

  void NormalizePieces(int64_t n, int64_t begin, int64_t end) const {
    const int64_t sample = n * p_.a * p_.c * p_.b;
    const CT* const mean = scratch_.tables.Row(n, kMean);
    const CT* const scale = scratch_.tables.Row(n, kScale);
    const CT* const shift = scratch_.tables.Row(n, kShift);
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      CpuPlan::ForEachPiece(
          begin, end, p_.c, p_.b, [&](int64_t offset, int64_t length, int64_t c, int64_t) HWY_ATTR {
            const ForwardCoefficients<Uniform<CT>> k = {{mean[c]}, {scale[c]}, {shift[c]}};
            NormalizeRows<activation()>(sample + offset, length, 1, length, k);
          });
    });
  }

  // All stages for whole groups, by runs.
  void NormalizeGroups(int64_t n, int64_t begin, int64_t end) const {
    const int64_t pieces = p_.channels_per_group() * plan_.channel_units;
    MomentsOfRuns(n, begin * plan_.group_units, end * plan_.group_units);
    Finish(n, begin, end);
    NormalizePieces(n, begin * pieces, end * pieces);
  }

 private:
  // Means, or sums of squared deviations, of a unit, per group.
  double* Means(int64_t n, int64_t unit) const {
    return scratch_.partial + (n * plan_.group_units + unit) * 2 * p_.groups;
  }
  double* SquaredDeviations(int64_t n, int64_t unit) const { return Means(n, unit) + p_.groups; }

  // Numbers of a group in a unit. The last chunk also has the partial row, even if it has as many
  // whole rows as the others.
  int64_t UnitCount(int64_t unit) const {
    if (plan_.moments_by_columns) {
      const int64_t group_cols = p_.channels_per_group() * p_.b;
      const int64_t rows_of_chunk = plan_.fold * plan_.chunk_rows;
      const bool is_last = unit == plan_.chunks - 1;
      return group_cols * (is_last ? p_.a - unit * rows_of_chunk : rows_of_chunk);
    }
    const int64_t run = p_.channels_per_group() * p_.b;
    return plan_.PieceLength(run, unit % CpuPlan::Pieces(run));
  }

  // Fills the tables for channels [begin, end) of one group, or of a vector of groups of one
  // channel each.
  HWY_INLINE void FillTables(int64_t n, int64_t begin, int64_t end, const Statistic& mean,
                             hn::Vec<hn::ScalableTag<double>> rstd) const {
    const hn::ScalableTag<double> d;
    const Affines<decltype(d), CT> affines = {d, mean.rest, hn::Mul(rstd, hn::Set(d, p_.scale)),
                                              AffineOf(p_.gamma, t_.gamma, n, p_.c),
                                              AffineOf(p_.beta, t_.beta, n, p_.c)};
    FillChannels(plan_, scratch_.tables.Row(n, kMean), begin, end,
                 [&](int64_t, auto) HWY_ATTR { return mean.rounded; });
    FillChannels(plan_, scratch_.tables.Row(n, kScale), begin, end,
                 [&](int64_t c, auto lanes) HWY_ATTR { return affines.Scale(c, lanes); });
    FillChannels(plan_, scratch_.tables.Row(n, kShift), begin, end,
                 [&](int64_t c, auto lanes) HWY_ATTR { return affines.Shift(c, lanes); });
  }

  template <Activation kActivation, class K>
  void NormalizeRows(int64_t offset, int64_t stride, int64_t rows, int64_t width, K k) const {
    const hn::ScalableTag<CT> d;
    const T* const x = t_.x + offset;
    const T* const side = t_.side_input == nullptr ? nullptr : t_.side_input + offset;
    Tout* const y = t_.y + offset;
    const int64_t ahead = PrefetchDistance<Tout>(rows, stride);
    for (int64_t begin = 0; begin < rows * stride; begin += stride) {
      const auto prefetch = [&](int64_t j) HWY_ATTR { PrefetchForWrite(y + begin + j + ahead); };
      ForEachVector(d, width, prefetch, [&](int64_t j, auto lanes) TFGN_LAMBDA {
        const int64_t i = begin + j;
        const auto centered = hn::Sub(Read(d, x + i, lanes), k.mean.Get(d, j));
        auto z = hn::MulAdd(centered, k.scale.Get(d, j), k.shift.Get(d, j));
        if (side != nullptr) z = hn::Add(z, Read(d, side + i, lanes));
        Write(Activate<kActivation>(d, z), d, y + i, lanes);
      });
    }
  }

  void MomentsOfTile(int64_t n, int64_t chunk, Tile tile) const {
    const hn::ScalableTag<CT> d;
    const int64_t cols = plan_.cols, row = p_.c * p_.b, tail = plan_.ChunkTail(chunk);
    const int64_t rows = plan_.ChunkEnd(chunk) - plan_.ChunkBegin(chunk);
    const T* x = t_.x + n * p_.a * row + plan_.ChunkBegin(chunk) * cols + tile.begin;
    const int64_t ahead = kRowsAtOnce * cols;
    ColumnSums<CT> sums;
    HWY_ALIGN CT shift[ColumnSums<CT>::kWidth];
    ShiftOfTile(x, rows, tile, shift);

    const auto prefetch = [&](int64_t r, int64_t j)
                              HWY_ATTR { PrefetchForRead(x + r * cols + j + ahead); };
    const auto add = [&](int64_t r, int64_t j, auto lanes, auto& sum, auto& squares) TFGN_LAMBDA {
      const auto value = Read(d, x + r * cols + j, lanes);
      const auto delta = Covered(d, hn::Sub(value, hn::Load(d, shift + j)), lanes);
      sum = hn::Add(sum, delta);
      squares = hn::MulAdd(delta, delta, squares);
    };
    sums.Add(0, rows, tile.width, prefetch, add);
    if (tail > 0) sums.Add(rows, rows + 1, tail, prefetch, add);

    const double rows_of_tensor = static_cast<double>(rows * plan_.fold + tail / row);
    const int64_t group = p_.channels_per_group() * p_.b;
    double* const means = Means(n, chunk);
    double* const m2s = SquaredDeviations(n, chunk);
    if (group == 1 && plan_.fold == 1) {  // ShiftedMoments for a vector of columns
      const hn::ScalableTag<double> dd;
      const auto one_nth = hn::Set(dd, 1 / rows_of_tensor);
      ForEachVector(dd, tile.width, [&](int64_t j, auto lanes) HWY_ATTR {
        const auto sum = hn::Load(dd, sums.first + j);
        const auto mean = hn::Mul(sum, one_nth);
        const auto m2 = hn::NegMulAdd(sum, mean, hn::Load(dd, sums.second + j));
        Write(hn::Add(ReadWide(dd, shift + j, AllLanes{}), mean), dd, means + tile.begin + j,
              lanes);
        Write(hn::IfThenZeroElse(hn::Lt(m2, hn::Zero(dd)), m2), dd, m2s + tile.begin + j, lanes);
      });
      return;
    }
    ForEachIn(tile, group, row, [&](int64_t g, int64_t j, int64_t count) HWY_ATTR {
      const double sum = SumOfFolds(sums.first, j, count, row, tile.width);
      const double squares = SumOfFolds(sums.second, j, count, row, tile.width);
      Moments m = ShiftedMoments(count * rows_of_tensor, shift[j], sum, squares);
      // A group wider than a tile is the sum of several, in order.
      const int64_t before = tile.begin + j - g * group;
      if (before > 0) {
        Moments whole = {before * rows_of_tensor, means[g], m2s[g]};
        whole.Merge(m);
        m = whole;
      }
      means[g] = m.mean;
      m2s[g] = m.m2;
    });
  }

  // The mean of the first rows, per group.
  void ShiftOfTile(const T* x, int64_t rows, Tile tile, CT* shift) const {
    const hn::ScalableTag<CT> d;
    const int64_t sampled =
        std::min(rows, std::max(CpuPlan::kShiftRows, plan_.chunk_rows / CpuPlan::kShiftShare));
    const auto one_nth = hn::Set(d, CT(1) / static_cast<CT>(sampled));
    ForEachVector(d, tile.width, [&](int64_t j, auto lanes) HWY_ATTR {
      auto mean = hn::Zero(d);
      for (int64_t r = 0; r < sampled; ++r) {
        mean = hn::MulAdd(Read(d, x + r * plan_.cols + j, lanes), one_nth, mean);
      }
      hn::Store(mean, d, shift + j);
    });
    const int64_t group = p_.channels_per_group() * p_.b, row = p_.c * p_.b;
    if (group == 1 && plan_.fold == 1) return;
    ForEachIn(tile, group, row, [&](int64_t, int64_t j, int64_t count) HWY_ATTR {
      const double sum = SumOfFolds(shift, j, count, row, tile.width);
      const CT mean = static_cast<CT>(sum / static_cast<double>(count * plan_.fold));
      for (int64_t at = j; at < tile.width; at += row) std::fill_n(shift + at, count, mean);
    });
  }

  const CpuPlan& plan_;
  const Normalization& p_;
  const ForwardTensors<T, Tout>& t_;
  const PassScratch<ForwardTensors<T, Tout>> scratch_;
};

// A CpuKernel.
template <typename T, typename Tout>
void RunPass(const CpuPlan& plan, const ForwardTensors<T, Tout>& tensors, void* workspace,
             const ParallelFor& parallel) {
  using Pass = ForwardPass<T, Tout>;
  const Pass pass(plan, tensors, workspace);
  const Normalization& p = plan.p;
  const int64_t sample = p.a * p.c * p.b * static_cast<int64_t>(sizeof(T));
  const int64_t groups = p.groups, parts = plan.chunks * plan.strips;
  const int64_t runs = groups * plan.group_units, pieces = p.c * plan.channel_units;
  const auto stage = [&pass](int64_t items, int64_t bytes, auto work) {
    return Stage{items, bytes, [&pass, work](int64_t n, int64_t begin, int64_t end) {
                   (pass.*work)(n, begin, end);
                 }};
  };
  const auto finish = stage(groups, 64 * (plan.group_units + plan.fold), &Pass::Finish);
  const auto moments_of_runs = stage(runs, sample / runs, &Pass::MomentsOfRuns);
  const auto normalize_columns = stage(parts, 2 * sample / parts, &Pass::NormalizeColumns);

  if (plan.moments_by_columns) {
    RunStages(parallel, p.n, sample, stage(parts, sample / parts, &Pass::MomentsOfColumns), finish,
              normalize_columns);
  } else if (plan.by_columns) {
    RunStages(parallel, p.n, sample, moments_of_runs, finish, normalize_columns);
  } else if (p.a == 1 && AreTasks(parallel, p.n * groups, sample / groups)) {
    RunStages(parallel, p.n, sample, stage(groups, 2 * sample / groups, &Pass::NormalizeGroups));
  } else {
    RunStages(parallel, p.n, sample, moments_of_runs, finish,
              stage(pieces, 2 * sample / pieces, &Pass::NormalizePieces));
  }
}

KernelTable<ForwardTensors> GetKernels() {
  KernelTable<ForwardTensors> kernels;
  std::apply([](auto&... kernel) { ((kernel = RunPass), ...); }, kernels);
  return kernels;
}

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tfgn {
namespace {

HWY_EXPORT(GetKernels);

}  // namespace

template <typename T, typename Tout>
void RunNormalization(const CpuPlan& plan, const ForwardTensors<T, Tout>& tensors, void* workspace,
                      const ParallelFor& parallel) {
  using Kernel = CpuKernel<ForwardTensors<T, Tout>>;
  std::get<Kernel>(HWY_DYNAMIC_DISPATCH(GetKernels)())(plan, tensors, workspace, parallel);
}

#define TFGN_INSTANTIATE(T, Tout)                                                       \
  template void RunNormalization(const CpuPlan&, const ForwardTensors<T, Tout>&, void*, \
                                 const ParallelFor&);
TFGN_FOR_EACH_DTYPE_PAIR(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
#endif  // HWY_ONCE
