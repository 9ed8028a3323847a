// The forward pass of a Normalization: moments, then one elementwise pass. Include after
// hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_NORMALIZE_FORWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_NORMALIZE_FORWARD_INL_H_
#undef TFGN_KERNELS_NORMALIZE_FORWARD_INL_H_
#else
#define TFGN_KERNELS_NORMALIZE_FORWARD_INL_H_
#endif

#include "kernels/activation-inl.h"
#include "kernels/reduce-inl.h"
#include "kernels/schedule.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

// Moments from the sum and the sum of squares of count numbers, each less `shift`. `shift` is the
// mean of a part of them, which bounds the cancellation.
HWY_INLINE Moments ShiftedMoments(double count, double shift, double sum, double squares) {
  const double m2 = squares - sum * (sum / count);
  return {count, shift + sum / count, m2 < 0 ? 0 : m2};
}

// Moments of a run of neighbours.
template <typename T>
HWY_NOINLINE Moments RunMoments(const T* x, int64_t length) {
  using CT = ParamOf<T>;
  const hn::ScalableTag<CT> d;
  const int64_t sampled = std::min<int64_t>(length, Layout::kPiece / Layout::kShiftShare);
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

// sums += (x - shift, (x - shift)^2) down a few rows.
template <typename T, typename CT>
HWY_NOINLINE void AddRows(const T* x, int64_t stride, int64_t rows, int64_t width,
                          const TileTable<CT>& shift, ColumnSums<CT>& sums) {
  const hn::ScalableTag<CT> d;
  ForEachVector(d, width, [&](int64_t j, auto lanes) HWY_ATTR {
    auto sum = hn::Load(d, sums.first.at + j);
    auto squares = hn::Load(d, sums.second.at + j);
    const auto shifts = hn::Load(d, shift.at + j);
    for (int64_t r = 0; r < rows; ++r) {
      const auto delta = Covered(d, hn::Sub(Read(d, x + r * stride + j, lanes), shifts), lanes);
      sum = hn::Add(sum, delta);
      squares = hn::MulAdd(delta, delta, squares);
    }
    hn::Store(sum, d, sums.first.at + j);
    hn::Store(squares, d, sums.second.at + j);
  });
}

// z = (x - mean) * scale + shift + side_input, with a TileTable of each or a Uniform.
template <class Coefficient>
struct ForwardCoefficients {
  Coefficient mean, scale, shift;
};

template <Activation kActivation, typename T, typename Tout, class Coefficients>
HWY_NOINLINE void NormalizeRow(const T* x, const T* side, Tout* y, int64_t width,
                               const Coefficients& k) {
  const hn::ScalableTag<ParamOf<T>> d;
  ForEachVector(d, width, [&](int64_t j, auto lanes) HWY_ATTR {
    const auto centered = hn::Sub(Read(d, x + j, lanes), k.mean.Get(d, j));
    auto z = hn::MulAdd(centered, k.scale.Get(d, j), k.shift.Get(d, j));
    if (side != nullptr) z = hn::Add(z, Read(d, side + j, lanes));
    Write(Activate<kActivation>(d, z), d, y + j, lanes);
  });
}

template <typename T, typename Tout>
struct ForwardTensors {
  const T* x;
  const ParamOf<T>* gamma;
  const ParamOf<T>* beta;
  const T* side;
  Tout* y;
  ParamOf<T>* mean;
  ParamOf<T>* rstd;
};

template <typename T, typename Tout, class Activations>
class ForwardPass {
  using CT = ParamOf<T>;

 public:
  ForwardPass(const Normalization& p, const ForwardTensors<T, Tout>& t, void* workspace)
      : p_(p), t_(t), layout_(p) {
    partial_ = static_cast<Moments*>(workspace);
    groups_ = reinterpret_cast<GroupStatistics*>(partial_ + p.n * layout_.group_units * p.groups);
  }

  void Run(const ParallelFor& parallel) const {
    if (layout_.by_columns) {
      RunByColumns(parallel);
    } else {
      RunByRuns(parallel);
    }
  }

 private:
  Moments& Partial(int64_t n, int64_t unit, int64_t g) const {
    return partial_[(n * layout_.group_units + unit) * p_.groups + g];
  }

  HWY_NOINLINE void FinishGroup(int64_t n, int64_t g) const {
    Moments m;
    for (int64_t unit = 0; unit < layout_.group_units; ++unit) m.Merge(Partial(n, unit, g));
    const int64_t i = n * p_.groups + g;
    groups_[i] = {m.mean, p_.Rstd(m.m2)};
    t_.mean[i] = static_cast<CT>(m.mean);
    t_.rstd[i] = static_cast<CT>(groups_[i].rstd);
  }

  // The rounding of mean to CT goes into shift, so that it costs no accuracy where |mean| is large.
  ForwardCoefficients<Uniform<CT>> ChannelCoefficients(int64_t n, int64_t g, int64_t c) const {
    const GroupStatistics& group = groups_[n * p_.groups + g];
    const CT mean = static_cast<CT>(group.mean);
    const double gamma = AffineAt(p_.gamma, t_.gamma, n, c, p_.c, 1.0);
    const double scale = group.rstd * p_.scale * gamma;
    const double beta = AffineAt(p_.beta, t_.beta, n, c, p_.c, 0.0);
    return {
        {mean}, {static_cast<CT>(scale)}, {static_cast<CT>(beta - (group.mean - mean) * scale)}};
  }

  // --- by columns ---

  void RunByColumns(const ParallelFor& parallel) const {
    const int64_t group_cols = p_.channels_per_group() * p_.b;
    const Span span = ChooseSpan(p_, layout_, sizeof(T), parallel.threads());
    if (span.fits_in_cache) {
      parallel(p_.n * span.count, span.bytes, [&](int64_t i) HWY_ATTR {
        const int64_t n = i / span.count, first = i % span.count * span.groups;
        const int64_t last = std::min(p_.groups, first + span.groups);
        const int64_t begin = first * group_cols;
        const int64_t end = last == p_.groups ? layout_.cols : last * group_cols;
        for (int64_t chunk = 0; chunk < layout_.chunks; ++chunk) {
          MomentsOfColumns(n, chunk, begin, end);
        }
        for (int64_t g = first; g < last; ++g) FinishGroup(n, g);
        NormalizeColumns(n, 0, layout_.rows, layout_.tail, begin, end);
      });
      return;
    }
    const int64_t bytes = layout_.chunk_rows * layout_.cols * static_cast<int64_t>(sizeof(T));
    parallel(p_.n * layout_.chunks, bytes, [&](int64_t i) HWY_ATTR {
      MomentsOfColumns(i / layout_.chunks, i % layout_.chunks, 0, layout_.cols);
    });
    parallel(p_.n, p_.groups * layout_.chunks * 256, [&](int64_t n) HWY_ATTR {
      for (int64_t g = 0; g < p_.groups; ++g) FinishGroup(n, g);
    });
    parallel(p_.n * layout_.chunks, 2 * bytes, [&](int64_t i) HWY_ATTR {
      const int64_t chunk = i % layout_.chunks;
      NormalizeColumns(i / layout_.chunks, layout_.ChunkBegin(chunk), layout_.ChunkEnd(chunk),
                       layout_.ChunkTail(chunk), 0, layout_.cols);
    });
  }

  HWY_NOINLINE void MomentsOfColumns(int64_t n, int64_t chunk, int64_t begin, int64_t end) const {
    ForEachTile(begin, end, p_.channels_per_group() * p_.b,
                [&](Tile tile) HWY_ATTR { MomentsOfTile(n, chunk, tile); });
  }

  HWY_NOINLINE void MomentsOfTile(int64_t n, int64_t chunk, Tile tile) const {
    const T* x = t_.x + n * p_.a * p_.c * p_.b + layout_.ChunkBegin(chunk) * layout_.cols;
    x += tile.begin;
    const int64_t rows = layout_.ChunkEnd(chunk) - layout_.ChunkBegin(chunk);
    const int64_t tail = layout_.ChunkTail(chunk);
    TileTable<CT> shift;
    ColumnSums<CT> sums;
    ShiftOfTile(x, rows, tile, sums, shift);

    sums.Clear(tile.width);
    for (int64_t r = 0; r < rows; r += kRowsAtOnce) {
      AddRows(x + r * layout_.cols, layout_.cols, std::min(kRowsAtOnce, rows - r), tile.width,
              shift, sums);
      if ((r + kRowsAtOnce) % Layout::kFloatRows == 0) sums.Flush(tile.width);
    }
    sums.Flush(tile.width);
    if (tail > 0) {
      AddRows(x + rows * layout_.cols, 0, 1, tail, shift, sums);
      sums.Flush(tail);
    }

    const int64_t row = p_.c * p_.b;
    ForEachGroup(p_, tile, [&](int64_t g, int64_t begin, int64_t count) {
      double sum = 0, squares = 0;
      for (int64_t fold = begin; fold < tile.width; fold += row) {
        for (int64_t j = fold; j < fold + count; ++j) {
          sum += sums.first_total.at[j];
          squares += sums.second_total.at[j];
        }
      }
      const double numbers = static_cast<double>(count * (rows * layout_.fold + tail / row));
      const Moments m = ShiftedMoments(numbers, shift.at[begin], sum, squares);
      // A group wider than a tile comes in several, in order.
      const bool first = (tile.begin + begin) % (p_.channels_per_group() * p_.b) == 0;
      if (first) Partial(n, chunk, g) = {};
      Partial(n, chunk, g).Merge(m);
    });
  }

  // Per group, the mean of its first rows.
  HWY_NOINLINE void ShiftOfTile(const T* x, int64_t rows, Tile tile, ColumnSums<CT>& scratch,
                                TileTable<CT>& shift) const {
    const hn::ScalableTag<CT> d;
    const int64_t sampled =
        std::min(rows, std::max<int64_t>(1, layout_.chunk_rows / Layout::kShiftShare));
    const auto one_nth = hn::Set(d, CT(1) / static_cast<CT>(sampled));
    scratch.first.Fill(tile.width, 0);
    for (int64_t r = 0; r < sampled; ++r) {
      ForEachVector(d, tile.width, [&](int64_t j, auto lanes) HWY_ATTR {
        CT* sum = scratch.first.at + j;
        const auto v = Read(d, x + r * layout_.cols + j, lanes);
        hn::Store(hn::MulAdd(v, one_nth, hn::Load(d, sum)), d, sum);
      });
    }
    const int64_t row = p_.c * p_.b;
    shift.Fill(tile.width, 0);
    ForEachGroup(p_, tile, [&](int64_t, int64_t begin, int64_t count) {
      double sum = 0;
      for (int64_t fold = begin; fold < tile.width; fold += row) {
        for (int64_t j = fold; j < fold + count; ++j) sum += scratch.first.at[j];
      }
      std::fill_n(shift.at + begin, count, static_cast<CT>(sum / (count * layout_.fold)));
    });
    Replicate(row, tile.width, shift.at);
  }

  HWY_NOINLINE void NormalizeColumns(int64_t n, int64_t row_begin, int64_t row_end, int64_t tail,
                                     int64_t begin, int64_t end) const {
    ForEachTile(begin, end, p_.channels_per_group() * p_.b, [&](Tile tile) HWY_ATTR {
      ForwardCoefficients<TileTable<CT>> table;
      for (auto* t : {&table.mean, &table.scale, &table.shift}) t->Fill(tile.width, 0);
      ForEachChannel(p_, tile, [&](int64_t c, int64_t g, int64_t j, int64_t count) {
        const auto channel = ChannelCoefficients(n, g, c);
        std::fill_n(table.mean.at + j, count, channel.mean.value);
        std::fill_n(table.scale.at + j, count, channel.scale.value);
        std::fill_n(table.shift.at + j, count, channel.shift.value);
      });
      for (auto* t : {&table.mean, &table.scale, &table.shift}) {
        Replicate(p_.c * p_.b, tile.width, t->at);
      }
      const int64_t sample = n * p_.a * p_.c * p_.b + tile.begin;
      for (int64_t r = row_begin; r < row_end; ++r) {
        Normalize(sample + r * layout_.cols, tile.width, table);
      }
      if (tail > 0) Normalize(sample + row_end * layout_.cols, tail, table);
    });
  }

  template <class Coefficients>
  HWY_INLINE void Normalize(int64_t offset, int64_t width, const Coefficients& c) const {
    const T* side = t_.side == nullptr ? nullptr : t_.side + offset;
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      NormalizeRow<activation()>(t_.x + offset, side, t_.y + offset, width, c);
    });
  }

  // --- by runs ---

  void RunByRuns(const ParallelFor& parallel) const {
    const int64_t run = p_.channels_per_group() * p_.b;
    const int64_t pieces = Layout::Pieces(run);
    const int64_t group_bytes = p_.a * run * static_cast<int64_t>(sizeof(T));
    if (group_bytes <= kCacheBytes && p_.n * p_.groups >= parallel.threads()) {
      ParallelRanges(parallel, p_.n * p_.groups, 2 * group_bytes, [&](int64_t i) HWY_ATTR {
        const int64_t n = i / p_.groups, g = i % p_.groups;
        for (int64_t u = 0; u < layout_.group_units; ++u) MomentsOfPiece(n, g, u, pieces);
        FinishGroup(n, g);
        for (int64_t k = 0; k < p_.channels_per_group(); ++k) {
          for (int64_t u = 0; u < layout_.channel_units; ++u) {
            NormalizePiece(n, g, g * p_.channels_per_group() + k, u);
          }
        }
      });
      return;
    }
    const int64_t units = layout_.group_units;
    ParallelRanges(
        parallel, p_.n * p_.groups * units, group_bytes / units, [&](int64_t i) HWY_ATTR {
          MomentsOfPiece(i / units / p_.groups, i / units % p_.groups, i % units, pieces);
        });
    ParallelRanges(parallel, p_.n * p_.groups, 256 * units,
                   [&](int64_t i) HWY_ATTR { FinishGroup(i / p_.groups, i % p_.groups); });
    const int64_t channel_units = layout_.channel_units;
    const int64_t bytes = std::min(p_.b, Layout::kPiece) * static_cast<int64_t>(2 * sizeof(T));
    ParallelRanges(parallel, p_.n * p_.c * channel_units, bytes, [&](int64_t i) HWY_ATTR {
      const int64_t c = i / channel_units % p_.c;
      NormalizePiece(i / channel_units / p_.c, c / p_.channels_per_group(), c, i % channel_units);
    });
  }

  HWY_NOINLINE void MomentsOfPiece(int64_t n, int64_t g, int64_t unit, int64_t pieces) const {
    const int64_t run = p_.channels_per_group() * p_.b;
    const int64_t a = unit / pieces, begin = unit % pieces * Layout::kPiece;
    const int64_t offset = ((n * p_.a + a) * p_.groups + g) * run + begin;
    Partial(n, unit, g) = RunMoments(t_.x + offset, std::min(run - begin, Layout::kPiece));
  }

  HWY_NOINLINE void NormalizePiece(int64_t n, int64_t g, int64_t c, int64_t unit) const {
    const int64_t pieces = Layout::Pieces(p_.b);
    const int64_t a = unit / pieces, begin = unit % pieces * Layout::kPiece;
    const int64_t offset = ((n * p_.a + a) * p_.c + c) * p_.b + begin;
    Normalize(offset, std::min(p_.b - begin, Layout::kPiece), ChannelCoefficients(n, g, c));
  }

  const Normalization& p_;
  const ForwardTensors<T, Tout>& t_;
  const Layout layout_;
  Moments* partial_;         // [N, units, G]
  GroupStatistics* groups_;  // [N, G]
};

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_NORMALIZE_FORWARD_INL_H_
