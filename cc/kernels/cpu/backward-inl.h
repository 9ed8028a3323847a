// The backward pass of a Normalization: two sums per channel, then one linear form per element.
// Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_CPU_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_CPU_BACKWARD_INL_H_
#undef TFGN_KERNELS_CPU_BACKWARD_INL_H_
#else
#define TFGN_KERNELS_CPU_BACKWARD_INL_H_
#endif

#include "kernels/cpu/gradient-inl.h"
#include "kernels/cpu/reduce-inl.h"
#include "kernels/cpu/stages.h"
#include "kernels/cpu/tables-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

template <typename T, typename Tout, class Activations>
class BackwardPass {
  using CT = ParamOf<T>;
  enum Table { kMean, kScale, kBeta, kSlope, kOffset };

 public:
  BackwardPass(const CpuPlan& plan, const BackwardTensors<T, Tout>& t, void* workspace)
      : plan_(plan), p_(plan.p), t_(t), scratch_(plan, Scratch(workspace)) {
    // A sigmoid costs more than to keep dz, until it is needed again, in an output of its
    // precision.
    if constexpr (std::is_same_v<T, CT> && std::is_same_v<T, Tout>) {
      if (p_.activation == Activation::kSilu) {
        kept_ = t.dside != nullptr ? t.dside : t.dx != t.x ? t.dx : nullptr;
      }
    }
  }

  void Run(const ParallelFor& parallel) const {
    const int64_t sample = p_.a * p_.c * p_.b * static_cast<int64_t>(sizeof(T) + sizeof(Tout));
    const int64_t groups = p_.groups, parts = plan_.chunks * plan_.strips;
    const int64_t channels = p_.channels_per_group(), pieces = channels * plan_.channel_units;
    const bool wants_elements = t_.dx != nullptr || (t_.dside != nullptr && kept_ == nullptr);
    const Stage prepare{
        groups, 64 * channels, [&](int64_t n, int64_t begin, int64_t end) {
          ForEachGroup(begin, end, [&](int64_t first, int64_t last) { Prepare(n, first, last); });
        }};
    const Stage finish{groups, 64 * pieces, [&](int64_t n, int64_t begin, int64_t end) {
                         ForEachGroup(begin, end,
                                      [&](int64_t first, int64_t last) { Finish(n, first, last); });
                       }};
    const Stage sums_of_columns{parts, sample / parts, [&](int64_t n, int64_t begin, int64_t end) {
                                  for (int64_t i = begin; i < end; ++i) SumsOfColumns(n, i);
                                }};
    const Stage backward_columns{wants_elements ? parts : 0, 2 * sample / parts,
                                 [&](int64_t n, int64_t begin, int64_t end) {
                                   for (int64_t i = begin; i < end; ++i) BackwardColumns(n, i);
                                 }};
    const Stage sums_of_pieces{
        groups * pieces, sample / (groups * pieces),
        [&](int64_t n, int64_t begin, int64_t end) { SumsOfPieces(n, begin, end); }};
    const Stage backward_pieces{
        wants_elements ? groups * pieces : 0, 2 * sample / (groups * pieces),
        [&](int64_t n, int64_t begin, int64_t end) { BackwardPieces(n, begin, end); }};
    const Stage whole_groups{groups, 2 * sample / groups,
                             [&](int64_t n, int64_t begin, int64_t end) {
                               prepare.f(n, begin, end);
                               SumsOfPieces(n, begin * pieces, end * pieces);
                               finish.f(n, begin, end);
                               if (wants_elements) BackwardPieces(n, begin * pieces, end * pieces);
                             }};

    if (plan_.by_columns) {
      RunStages(parallel, p_.n, sample, prepare, sums_of_columns, finish, backward_columns);
    } else if (p_.a == 1 && AreTasks(parallel, p_.n * groups, sample / groups)) {
      RunStages(parallel, p_.n, sample, whole_groups);
    } else {
      RunStages(parallel, p_.n, sample, prepare, sums_of_pieces, finish, backward_pieces);
    }
    // The samples, in order.
    const int64_t sums = p_.n * 2 * static_cast<int64_t>(sizeof(double));
    RunStages(parallel, 1, p_.c * sums,
              Stage{p_.c, sums, [&](int64_t, int64_t begin, int64_t end) {
                      WriteAffineGradient(p_.beta, 0, begin, end, t_.dbeta);
                      WriteAffineGradient(p_.gamma, 1, begin, end, t_.dgamma);
                    }});
  }

 private:
  // Sums of dz (i = 0) or dz * (x - mean) (i = 1) of a unit, per channel.
  double* Partial(int64_t n, int64_t unit, int64_t i) const {
    return scratch_.partial + ((n * plan_.channel_units + unit) * 2 + i) * p_.c;
  }

  // The gradients of beta (i = 0) and gamma (i = 1) by sample n.
  double* Channels(int64_t n, int64_t i) const { return scratch_.channels + (n * 2 + i) * p_.c; }

  // f(first, last) for one group at a time, or for a vector of groups of one channel each, so that
  // what f computes of a group's statistics fills a vector either way.
  template <class F>
  HWY_INLINE void ForEachGroup(int64_t begin, int64_t end, F&& f) const {
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<double>()));
    const int64_t step = p_.channels_per_group() == 1 ? lanes : 1;
    for (int64_t g = begin; g < end; g += step) f(g, std::min(end, g + step));
  }

  // A saved statistic of groups [first, last), in a lane each or the same in all lanes.
  template <class D>
  HWY_INLINE hn::Vec<D> ReadStatistic(D d, const CT* values, int64_t n, int64_t first,
                                      int64_t last) const {
    values += n * p_.groups + first;
    if (p_.channels_per_group() > 1) return hn::Set(d, *values);
    return ReadWide(d, values, FirstLanes{static_cast<size_t>(last - first)});
  }

  template <class F>
  HWY_INLINE void Fill(int64_t n, Table table, int64_t first, int64_t last, F&& f) const {
    const int64_t channels = p_.channels_per_group();
    FillChannels(plan_, scratch_.tables.Row(n, table), first * channels, last * channels, f);
  }

  HWY_NOINLINE void Prepare(int64_t n, int64_t first, int64_t last) const {
    const hn::ScalableTag<double> d;
    const auto mean = ReadStatistic(d, t_.mean, n, first, last);
    const auto rstd = hn::Mul(ReadStatistic(d, t_.rstd, n, first, last), hn::Set(d, p_.scale));
    const CT* gamma = AffineOf(p_.gamma, t_.gamma, n, p_.c);
    const CT* beta = AffineOf(p_.beta, t_.beta, n, p_.c);
    Fill(n, kMean, first, last, [&](int64_t, auto) HWY_ATTR { return mean; });
    Fill(n, kScale, first, last, [&](int64_t c, auto lanes) HWY_ATTR {
      return hn::Mul(rstd, ReadAffine(d, gamma, c, lanes, 1));
    });
    if (p_.activation == Activation::kLinear) return;
    Fill(n, kBeta, first, last,
         [&](int64_t c, auto lanes) HWY_ATTR { return ReadAffine(d, beta, c, lanes, 0); });
  }

  HWY_NOINLINE void Finish(int64_t n, int64_t first, int64_t last) const {
    const hn::ScalableTag<double> d;
    const int64_t channels = p_.channels_per_group(), begin = first * channels;
    const auto rstd = ReadStatistic(d, t_.rstd, n, first, last);
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

  HWY_NOINLINE void WriteAffineGradient(Affine affine, int64_t i, int64_t begin, int64_t end,
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

  Source<T, Tout> SourceAt(int64_t offset) const {
    return Source<T, Tout>{t_.x, t_.dy, t_.side_input} + offset;
  }

  T* KeptAt(int64_t offset) const { return kept_ == nullptr ? nullptr : kept_ + offset; }

  template <class K>
  HWY_INLINE void Backward(int64_t offset, int64_t stride, int64_t rows, int64_t width,
                           const K& k) const {
    T* dx = t_.dx == nullptr ? nullptr : t_.dx + offset;
    T* dside = t_.dside == nullptr ? nullptr : t_.dside + offset;
    if constexpr (std::is_same_v<T, Tout>) {
      if (kept_ != nullptr) {
        const Source<T, Tout> from = {t_.x + offset, kept_ + offset, nullptr};
        BackwardRows<Activation::kLinear>(from, dx, static_cast<T*>(nullptr), stride, rows, width,
                                          k);
        return;
      }
    }
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      BackwardRows<activation()>(SourceAt(offset), dx, dside, stride, rows, width, k);
    });
  }

  // --- by columns ---

  BackwardCoefficients<PerColumn<CT>> ColumnsOf(int64_t n, Tile tile) const {
    const auto table = [&](Table i) {
      return PerColumn<CT>{scratch_.tables.Row(n, i) + tile.begin};
    };
    return {table(kMean), table(kScale), table(kBeta), table(kSlope), table(kOffset)};
  }

  HWY_NOINLINE void SumsOfColumns(int64_t n, int64_t item) const {
    plan_.ForEachTile(item % plan_.strips,
                      [&](Tile tile) HWY_ATTR { SumsOfTile(n, item / plan_.strips, tile); });
  }

  HWY_NOINLINE void SumsOfTile(int64_t n, int64_t chunk, Tile tile) const {
    ColumnSums<CT> sums;
    const int64_t row = p_.c * p_.b, rows = plan_.ChunkEnd(chunk) - plan_.ChunkBegin(chunk);
    const int64_t offset = n * p_.a * row + plan_.ChunkBegin(chunk) * plan_.cols + tile.begin;
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      AddGradientRows<activation()>(SourceAt(offset), KeptAt(offset), plan_.cols, rows, tile.width,
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
      // A channel may begin in the tile before.
      const bool goes_on = tile.begin + j > c * p_.b;
      dz[c] = (goes_on ? dz[c] : 0) + SumOfFolds(sums.first, j, count, row, tile.width);
      dz_centered[c] =
          (goes_on ? dz_centered[c] : 0) + SumOfFolds(sums.second, j, count, row, tile.width);
    });
  }

  HWY_NOINLINE void BackwardColumns(int64_t n, int64_t item) const {
    const int64_t chunk = item / plan_.strips, cols = plan_.cols;
    const int64_t begin = plan_.ChunkBegin(chunk), end = plan_.ChunkEnd(chunk);
    plan_.ForEachTile(item % plan_.strips, [&](Tile tile) HWY_ATTR {
      const auto k = ColumnsOf(n, tile);
      const int64_t sample = n * p_.a * p_.c * p_.b + tile.begin;
      Backward(sample + begin * cols, cols, end - begin, tile.width, k);
      if (plan_.ChunkTail(chunk) > 0) {
        Backward(sample + end * cols, cols, 1, plan_.ChunkTail(chunk), k);
      }
    });
  }

  // --- by runs ---

  BackwardCoefficients<Uniform<CT>> UniformOf(int64_t n, int64_t c) const {
    const auto table = [&](Table i) { return Uniform<CT>{scratch_.tables.Row(n, i)[c]}; };
    return {table(kMean), table(kScale), table(kBeta), table(kSlope), table(kOffset)};
  }

  HWY_NOINLINE void SumsOfPieces(int64_t n, int64_t begin, int64_t end) const {
    const int64_t sample = n * p_.a * p_.c * p_.b;
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      CpuPlan::ForEachPiece(begin, end, p_.c, p_.b,
                            [&](int64_t offset, int64_t length, int64_t c, int64_t unit) HWY_ATTR {
                              const ChannelSums sums = GradientSums<activation()>(
                                  SourceAt(sample + offset), KeptAt(sample + offset), length,
                                  UniformOf(n, c));
                              Partial(n, unit, 0)[c] = sums.dz;
                              Partial(n, unit, 1)[c] = sums.dz_centered;
                            });
    });
  }

  HWY_NOINLINE void BackwardPieces(int64_t n, int64_t begin, int64_t end) const {
    const int64_t sample = n * p_.a * p_.c * p_.b;
    CpuPlan::ForEachPiece(begin, end, p_.c, p_.b,
                          [&](int64_t offset, int64_t length, int64_t c, int64_t) HWY_ATTR {
                            Backward(sample + offset, length, 1, length, UniformOf(n, c));
                          });
  }

  const CpuPlan& plan_;
  const Normalization& p_;
  const BackwardTensors<T, Tout>& t_;
  const PassScratch<BackwardTensors<T, Tout>> scratch_;
  T* kept_ = nullptr;  // dz, from the sums on
};

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_CPU_BACKWARD_INL_H_
