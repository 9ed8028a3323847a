// The backward pass of a Normalization: two sums per channel, then one linear form per element.
#include "kernels/cpu/pass.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/gradient-inl.h"
#include "kernels/cpu/reduce-inl.h"
#include "kernels/cpu/stages.h"
#include "kernels/cpu/tables-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

template <typename T, typename Tout>
class BackwardPass {
  using Activations = ActivationsOf<T, Tout>;
  using CT = ParamOf<T>;
  using Statistic = SplitStatistic<hn::ScalableTag<double>>;
  enum Table { kMean, kScale, kShift, kSlope, kOffset };

 public:
  BackwardPass(const CpuPlan& plan, const BackwardTensors<T, Tout>& t, void* workspace)
      : plan_(plan),
        p_(plan.p),
        t_(t),
        scratch_(plan, Scratch(workspace)),
        source_{t.x, t.dy, t.side_input},
        elements_{p_.activation, source_, t.dx, t.dside, t.y} {
    // Writing dz to an output of its precision and reading it again is faster than computing the
    // sigmoid twice (benchmarks/NOTES.md, "+SiLU"). x is read again, too.
    if constexpr (std::is_same_v<T, CT> && std::is_same_v<T, Tout>) {
      if (p_.activation != Activation::kSilu || t.y == t.x) return;
      T* const dz = t.dside != nullptr ? t.dside : t.dx != t.x ? t.dx : nullptr;
      if (dz == nullptr) return;
      kept_ = {dz, t.y};
      elements_ = {Activation::kLinear, {t.x, dz, nullptr}, t.dx, nullptr, nullptr};
    }
  }

  bool writes_elements() const {
    return elements_.dx != nullptr || elements_.dside != nullptr || elements_.y != nullptr;
  }

  // --- the work of stages, for items [begin, end) of sample n ---

  // Computes the coefficients of the sums, for groups [begin, end).
  void Prepare(int64_t n, int64_t begin, int64_t end) const {
    ForEachGroup(begin, end, [&](int64_t first, int64_t last) { PrepareGroups(n, first, last); });
  }

  void SumsOfColumns(int64_t n, int64_t begin, int64_t end) const {
    plan_.ForEachTile(begin, end,
                      [&](int64_t chunk, Tile tile) HWY_ATTR { SumsOfTile(n, chunk, tile); });
  }

  void SumsOfPieces(int64_t n, int64_t begin, int64_t end) const {
    const int64_t sample = n * p_.a * p_.c * p_.b;
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      CpuPlan::ForEachPiece(begin, end, p_.c, p_.b,
                            [&](int64_t offset, int64_t length, int64_t c, int64_t unit) HWY_ATTR {
                              const ChannelSums sums = GradientSums<activation()>(
                                  source_ + (sample + offset), kept_ + (sample + offset), length,
                                  UniformOf(n, c));
                              Partial(n, unit, 0)[c] = sums.dz;
                              Partial(n, unit, 1)[c] = sums.dz_centered;
                            });
    });
  }

  // Computes the gradients of gamma and beta for sample n and the coefficients of dx, for groups
  // [begin, end).
  void Finish(int64_t n, int64_t begin, int64_t end) const {
    ForEachGroup(begin, end, [&](int64_t first, int64_t last) { FinishGroups(n, first, last); });
  }

  void BackwardColumns(int64_t n, int64_t begin, int64_t end) const {
    Activations::Dispatch(elements_.activation, [&](auto activation) HWY_ATTR {
      plan_.ForEachTile(begin, end, [&](int64_t chunk, Tile tile) HWY_ATTR {
        const auto k = ColumnsOf(n, tile);
        const int64_t sample = n * p_.a * p_.c * p_.b + tile.begin, cols = plan_.cols;
        const int64_t first = plan_.ChunkBegin(chunk), last = plan_.ChunkEnd(chunk);
        const int64_t tail = plan_.ChunkTail(chunk);
        BackwardRows<activation()>(elements_, sample + first * cols, cols, last - first, tile.width,
                                   k);
        if (tail > 0) BackwardRows<activation()>(elements_, sample + last * cols, cols, 1, tail, k);
      });
    });
  }

  void BackwardPieces(int64_t n, int64_t begin, int64_t end) const {
    const int64_t sample = n * p_.a * p_.c * p_.b;
    Activations::Dispatch(elements_.activation, [&](auto activation) HWY_ATTR {
      CpuPlan::ForEachPiece(begin, end, p_.c, p_.b,
                            [&](int64_t offset, int64_t length, int64_t c, int64_t) HWY_ATTR {
                              BackwardRows<activation()>(elements_, sample + offset, length, 1,
                                                         length, UniformOf(n, c));
                            });
    });
  }

  // All stages for whole groups, by runs.
  void BackwardGroups(int64_t n, int64_t begin, int64_t end) const {
    const int64_t pieces = p_.channels_per_group() * plan_.channel_units;
    Prepare(n, begin, end);
    SumsOfPieces(n, begin * pieces, end * pieces);
    Finish(n, begin, end);
    if (writes_elements()) BackwardPieces(n, begin * pieces, end * pieces);
  }

  // Adds the gradients of gamma and beta up over the samples, in order, for channels [begin, end).
  void WriteAffineGradients(int64_t, int64_t begin, int64_t end) const {
    WriteAffineGradient(p_.beta, 0, begin, end, t_.dbeta);
    WriteAffineGradient(p_.gamma, 1, begin, end, t_.dgamma);
  }

 private:
  // Sums of dz (i = 0) or dz * (x - mean) (i = 1) of a unit, per channel.
  double* Partial(int64_t n, int64_t unit, int64_t i) const {
    return scratch_.partial + ((n * plan_.channel_units + unit) * 2 + i) * p_.c;
  }

  // The gradients of beta (i = 0) and gamma (i = 1) by sample n.
  double* Channels(int64_t n, int64_t i) const { return scratch_.channels + (n * 2 + i) * p_.c; }

  // f(first, last) for one group at a time, or for a vector of groups of one channel each: f then
  // computes on whole vectors in either case.
  template <class F>
  HWY_INLINE void ForEachGroup(int64_t begin, int64_t end, F&& f) const {
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<double>()));
    const int64_t step = p_.channels_per_group() == 1 ? lanes : 1;
    for (int64_t g = begin; g < end; g += step) f(g, std::min(end, g + step));
  }

  // A saved statistic of groups [first, last): a lane for each, or one group's in all lanes.
  // `rest`: null, or what each lost, in the layout of ForwardTensors::rest.
  HWY_INLINE Statistic ReadStatistic(const CT* values, const CT* rest, int64_t n, int64_t first,
                                     int64_t last) const {
    const hn::ScalableTag<double> d;
    const auto read = [&](const CT* of_groups) HWY_ATTR {
      return p_.channels_per_group() > 1
                 ? hn::Set(d, *of_groups)
                 : ReadWide(d, of_groups, FirstLanes{static_cast<size_t>(last - first)});
    };
    return {read(values + n * p_.groups + first),
            rest == nullptr ? hn::Zero(d) : read(rest + 2 * n * p_.groups + first)};
  }
  HWY_INLINE Statistic ReadMean(int64_t n, int64_t first, int64_t last) const {
    return ReadStatistic(t_.mean, t_.rest, n, first, last);
  }
  HWY_INLINE hn::Vec<hn::ScalableTag<double>> ReadRstd(int64_t n, int64_t first,
                                                       int64_t last) const {
    const CT* const rest = t_.rest == nullptr ? nullptr : t_.rest + p_.groups;
    return ReadStatistic(t_.rstd, rest, n, first, last).Sum();
  }

  template <class F>
  HWY_INLINE void Fill(int64_t n, Table table, int64_t first, int64_t last, F&& f) const {
    const int64_t channels = p_.channels_per_group();
    FillChannels(plan_, scratch_.tables.Row(n, table), first * channels, last * channels, f);
  }

  void PrepareGroups(int64_t n, int64_t first, int64_t last) const {
    const hn::ScalableTag<double> d;
    const Statistic mean = ReadMean(n, first, last);
    const auto scaled_rstd = hn::Mul(ReadRstd(n, first, last), hn::Set(d, p_.scale));
    const Affines<decltype(d), CT> affines = {d, mean.rest, scaled_rstd,
                                              AffineOf(p_.gamma, t_.gamma, n, p_.c),
                                              AffineOf(p_.beta, t_.beta, n, p_.c)};
    Fill(n, kMean, first, last, [&](int64_t, auto) HWY_ATTR { return mean.rounded; });
    Fill(n, kScale, first, last,
         [&](int64_t c, auto lanes) HWY_ATTR { return affines.Scale(c, lanes); });
    if (p_.activation == Activation::kLinear && t_.y == nullptr) return;
    Fill(n, kShift, first, last,
         [&](int64_t c, auto lanes) HWY_ATTR { return affines.Shift(c, lanes); });
  }

  void FinishGroups(int64_t n, int64_t first, int64_t last) const {
    const hn::ScalableTag<double> d;
    const int64_t channels = p_.channels_per_group(), begin = first * channels;
    const auto rstd = ReadRstd(n, first, last);
    const CT* gamma = AffineOf(p_.gamma, t_.gamma, n, p_.c);
    auto dz_of_group = hn::Zero(d), dz_centered_of_group = hn::Zero(d);
    ForEachVector(d, (last - first) * channels, [&](int64_t j, auto lanes) HWY_ATTR {
      const int64_t c = begin + j;
      auto dz = hn::Zero(d), dz_centered = hn::Zero(d);
      for (int64_t unit = 0; unit < plan_.channel_units; ++unit) {
        dz = hn::Add(dz, Read(d, Partial(n, unit, 0) + c, lanes));
        dz_centered = hn::Add(dz_centered, Read(d, Partial(n, unit, 1) + c, lanes));
      }
      Write(dz, d, Channels(n, 0) + c, lanes);
      Write(hn::Mul(dz_centered, hn::Mul(rstd, hn::Set(d, p_.scale))), d, Channels(n, 1) + c,
            lanes);
      const auto scale =
          Covered(d, hn::Mul(ReadAffine(d, gamma, c, lanes, 1), hn::Set(d, p_.scale)), lanes);
      dz_of_group = hn::MulAdd(scale, dz, dz_of_group);
      dz_centered_of_group = hn::MulAdd(scale, dz_centered, dz_centered_of_group);
    });
    if (channels > 1) {
      dz_of_group = hn::Set(d, SumToDouble(d, dz_of_group));
      dz_centered_of_group = hn::Set(d, SumToDouble(d, dz_centered_of_group));
    }
    HWY_ALIGN double slopes[HWY_MAX_BYTES / sizeof(double)];
    hn::Store(rstd, d, slopes);
    for (int64_t i = 0; i < last - first; ++i) slopes[i] = p_.RstdSlope(slopes[i]);
    const auto slope =
        hn::Mul(dz_centered_of_group, channels > 1 ? hn::Set(d, slopes[0]) : hn::Load(d, slopes));
    const auto offset =
        hn::Mul(hn::Mul(rstd, dz_of_group), hn::Set(d, -1 / static_cast<double>(p_.group_size())));
    Fill(n, kSlope, first, last, [&](int64_t, auto) HWY_ATTR { return slope; });
    Fill(n, kOffset, first, last, [&](int64_t, auto) HWY_ATTR { return offset; });
  }

  void WriteAffineGradient(Affine affine, int64_t i, int64_t begin, int64_t end,
                           CT* gradient) const {
    if (gradient == nullptr || affine == Affine::kAbsent) return;
    const hn::ScalableTag<double> d;
    ForEachVector(d, end - begin, [&](int64_t j, auto lanes) HWY_ATTR {
      const int64_t c = begin + j;
      auto total = hn::Zero(d);
      for (int64_t n = 0; n < p_.n; ++n) {
        const auto of_sample = Read(d, Channels(n, i) + c, lanes);
        if (affine == Affine::kPerSample) {
          WriteNarrow(of_sample, d, gradient + n * p_.c + c, lanes);
        }
        total = hn::Add(total, of_sample);
      }
      if (affine == Affine::kPerChannel) WriteNarrow(total, d, gradient + c, lanes);
    });
  }

  BackwardCoefficients<PerColumn<CT>> ColumnsOf(int64_t n, Tile tile) const {
    const auto table = [&](Table i) {
      return PerColumn<CT>{scratch_.tables.Row(n, i) + tile.begin};
    };
    return {table(kMean), table(kScale), table(kShift), table(kSlope), table(kOffset)};
  }

  BackwardCoefficients<Uniform<CT>> UniformOf(int64_t n, int64_t c) const {
    const auto table = [&](Table i) { return Uniform<CT>{scratch_.tables.Row(n, i)[c]}; };
    return {table(kMean), table(kScale), table(kShift), table(kSlope), table(kOffset)};
  }

  void SumsOfTile(int64_t n, int64_t chunk, Tile tile) const {
    ColumnSums<CT> sums;
    const int64_t row = p_.c * p_.b, rows = plan_.ChunkEnd(chunk) - plan_.ChunkBegin(chunk);
    const int64_t offset = n * p_.a * row + plan_.ChunkBegin(chunk) * plan_.cols + tile.begin;
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      AddGradientRows<activation()>(source_ + offset, kept_ + offset, plan_.cols, rows, tile.width,
                                    plan_.ChunkTail(chunk), ColumnsOf(n, tile), sums);
    });

    double* const dz = Partial(n, chunk, 0);
    double* const dz_centered = Partial(n, chunk, 1);
    if (p_.b == 1 && plan_.fold == 1) {
      std::copy_n(sums.first, tile.width, dz + tile.begin);
      std::copy_n(sums.second, tile.width, dz_centered + tile.begin);
      return;
    }
    ForEachIn(tile, p_.b, row, [&](int64_t c, int64_t j, int64_t count) HWY_ATTR {
      // A channel may have begun in the tile before.
      const bool goes_on = tile.begin + j > c * p_.b;
      dz[c] = (goes_on ? dz[c] : 0) + SumOfFolds(sums.first, j, count, row, tile.width);
      dz_centered[c] =
          (goes_on ? dz_centered[c] : 0) + SumOfFolds(sums.second, j, count, row, tile.width);
    });
  }

  const CpuPlan& plan_;
  const Normalization& p_;
  const BackwardTensors<T, Tout>& t_;
  const PassScratch<BackwardTensors<T, Tout>> scratch_;
  const Source<T, Tout> source_;
  Elements<T, Tout> elements_;
  Kept<T, Tout> kept_;
};

// A CpuKernel.
template <typename T, typename Tout>
void RunPass(const CpuPlan& plan, const BackwardTensors<T, Tout>& tensors, void* workspace,
             const ParallelFor& parallel) {
  using Pass = BackwardPass<T, Tout>;
  const Pass pass(plan, tensors, workspace);
  const Normalization& p = plan.p;
  const int64_t sample = p.a * p.c * p.b * static_cast<int64_t>(sizeof(T) + sizeof(Tout));
  const int64_t groups = p.groups, parts = plan.chunks * plan.strips;
  const int64_t channels = p.channels_per_group(), pieces = p.c * plan.channel_units;
  const auto stage = [&pass](int64_t items, int64_t bytes, auto work) {
    return Stage{items, bytes, [&pass, work](int64_t n, int64_t begin, int64_t end) {
                   (pass.*work)(n, begin, end);
                 }};
  };
  const auto prepare = stage(groups, 64 * channels, &Pass::Prepare);
  const auto finish = stage(groups, 64 * channels * plan.channel_units, &Pass::Finish);

  if (plan.by_columns) {
    RunStages(
        parallel, p.n, sample, prepare, stage(parts, sample / parts, &Pass::SumsOfColumns), finish,
        stage(pass.writes_elements() ? parts : 0, 2 * sample / parts, &Pass::BackwardColumns));
  } else if (p.a == 1 && AreTasks(parallel, p.n * groups, sample / groups)) {
    RunStages(parallel, p.n, sample, stage(groups, 2 * sample / groups, &Pass::BackwardGroups));
  } else {
    RunStages(
        parallel, p.n, sample, prepare, stage(pieces, sample / pieces, &Pass::SumsOfPieces), finish,
        stage(pass.writes_elements() ? pieces : 0, 2 * sample / pieces, &Pass::BackwardPieces));
  }
  const int64_t sums = p.n * 2 * static_cast<int64_t>(sizeof(double));
  RunStages(parallel, 1, p.c * sums, stage(p.c, sums, &Pass::WriteAffineGradients));
}

KernelTable<BackwardTensors> GetKernels() {
  KernelTable<BackwardTensors> kernels;
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
void RunNormalization(const CpuPlan& plan, const BackwardTensors<T, Tout>& tensors, void* workspace,
                      const ParallelFor& parallel) {
  using Kernel = CpuKernel<BackwardTensors<T, Tout>>;
  std::get<Kernel>(HWY_DYNAMIC_DISPATCH(GetKernels)())(plan, tensors, workspace, parallel);
}

#define TFGN_INSTANTIATE(T, Tout)                                                        \
  template void RunNormalization(const CpuPlan&, const BackwardTensors<T, Tout>&, void*, \
                                 const ParallelFor&);
TFGN_FOR_EACH_DTYPE_PAIR(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
#endif  // HWY_ONCE
