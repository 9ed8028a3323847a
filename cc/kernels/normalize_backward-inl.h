// The backward pass of a Normalization: two sums per channel, then one linear form per element,
//   dx = dz * scale + (x - mean) * slope + offset.
// Include after hwy/highway.h, once per target.
#if defined(TFGN_KERNELS_NORMALIZE_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TFGN_KERNELS_NORMALIZE_BACKWARD_INL_H_
#undef TFGN_KERNELS_NORMALIZE_BACKWARD_INL_H_
#else
#define TFGN_KERNELS_NORMALIZE_BACKWARD_INL_H_
#endif

#include "kernels/activation-inl.h"
#include "kernels/reduce-inl.h"
#include "kernels/schedule.h"

HWY_BEFORE_NAMESPACE();
namespace tfgn {
namespace HWY_NAMESPACE {
namespace {

// TileTables or Uniforms; scale = rstd * gamma.
template <class Coefficient>
struct BackwardCoefficients {
  Coefficient mean, scale, beta, slope, offset;
};

// The place of an access: x, dy and side_input at the same element.
template <typename T, typename Tout>
struct Source {
  const T* x;
  const Tout* dy;
  const T* side;  // or null

  Source operator+(int64_t i) const { return {x + i, dy + i, side == nullptr ? side : side + i}; }
};

// x - mean, and dz = dy * activation'((x - mean) * scale + beta + side_input); 0 in lanes that are
// not covered.
template <class D>
struct Gradient {
  hn::Vec<D> centered, dz;
};

template <Activation kActivation, class D, typename T, typename Tout, class Lanes, class K>
HWY_INLINE Gradient<D> GradientAt(D d, const Source<T, Tout>& from, int64_t j, Lanes lanes,
                                  const K& k, int64_t column) {
  const auto centered =
      Covered(d, hn::Sub(Read(d, from.x + j, lanes), k.mean.Get(d, column)), lanes);
  const auto dy = Read(d, from.dy + j, lanes);
  if constexpr (kActivation == Activation::kLinear) {
    return {centered, dy};
  } else {
    auto z = hn::MulAdd(centered, k.scale.Get(d, column), k.beta.Get(d, column));
    if (from.side != nullptr) z = hn::Add(z, Read(d, from.side + j, lanes));
    return {centered, Covered(d, ActivateBackward<kActivation>(d, dy, z), lanes)};
  }
}

// sums += (dz, dz * (x - mean)) down a few rows.
template <Activation kActivation, typename T, typename Tout, typename CT, class K>
HWY_NOINLINE void AddGradientRows(const Source<T, Tout>& from, int64_t stride, int64_t rows,
                                  int64_t width, const K& k, ColumnSums<CT>& sums) {
  const hn::ScalableTag<CT> d;
  ForEachVector(d, width, [&](int64_t j, auto lanes) HWY_ATTR {
    auto first = hn::Load(d, sums.first.at + j);
    auto second = hn::Load(d, sums.second.at + j);
    for (int64_t r = 0; r < rows; ++r) {
      const auto at = GradientAt<kActivation>(d, from, r * stride + j, lanes, k, j);
      first = hn::Add(first, at.dz);
      second = hn::MulAdd(at.dz, at.centered, second);
    }
    hn::Store(first, d, sums.first.at + j);
    hn::Store(second, d, sums.second.at + j);
  });
}

template <Activation kActivation, typename T, typename Tout, class K>
HWY_NOINLINE void BackwardRow(const Source<T, Tout>& from, T* dx, T* dside, int64_t width,
                              const K& k) {
  const hn::ScalableTag<ParamOf<T>> d;
  ForEachVector(d, width, [&](int64_t j, auto lanes) HWY_ATTR {
    const auto at = GradientAt<kActivation>(d, from, j, lanes, k, j);
    if (dside != nullptr) Write(at.dz, d, dside + j, lanes);
    if (dx != nullptr) {
      const auto linear = hn::MulAdd(at.centered, k.slope.Get(d, j), k.offset.Get(d, j));
      Write(hn::MulAdd(at.dz, k.scale.Get(d, j), linear), d, dx + j, lanes);
    }
  });
}

template <typename T, typename Tout>
struct BackwardTensors {
  const Tout* dy;
  const T* x;
  const ParamOf<T>* gamma;
  const ParamOf<T>* beta;
  const ParamOf<T>* mean;
  const ParamOf<T>* rstd;
  const T* side;
  T* dx;
  ParamOf<T>* dgamma;
  ParamOf<T>* dbeta;
  T* dside;
};

template <typename T, typename Tout, class Activations>
class BackwardPass {
  using CT = ParamOf<T>;

 public:
  BackwardPass(const Normalization& p, const BackwardTensors<T, Tout>& t, void* workspace)
      : p_(p), t_(t), layout_(p) {
    partial_ = static_cast<ChannelSums*>(workspace);
    channels_ = partial_ + p.n * layout_.channel_units * p.c;
    groups_ = reinterpret_cast<GroupTerms*>(channels_ + p.n * p.c);
  }

  void Run(const ParallelFor& parallel) const {
    if (layout_.by_columns) {
      RunByColumns(parallel);
    } else {
      RunByRuns(parallel);
    }
    const bool wants_gamma = t_.dgamma != nullptr && p_.gamma != Affine::kAbsent;
    const bool wants_beta = t_.dbeta != nullptr && p_.beta != Affine::kAbsent;
    ParallelRanges(parallel, p_.c, p_.n * sizeof(ChannelSums), [&](int64_t c) HWY_ATTR {
      if (wants_gamma) WriteAffineGradient(p_.gamma, c, &ChannelSums::dz_centered, t_.dgamma);
      if (wants_beta) WriteAffineGradient(p_.beta, c, &ChannelSums::dz, t_.dbeta);
    });
  }

 private:
  ChannelSums& Partial(int64_t n, int64_t unit, int64_t c) const {
    return partial_[(n * layout_.channel_units + unit) * p_.c + c];
  }

  double Gamma(int64_t n, int64_t c) const {
    return AffineAt(p_.gamma, t_.gamma, n, c, p_.c, 1.0) * p_.scale;
  }

  HWY_NOINLINE void FinishGroup(int64_t n, int64_t g) const {
    const double rstd = t_.rstd[n * p_.groups + g];
    ChannelSums group = {0, 0};
    for (int64_t k = 0; k < p_.channels_per_group(); ++k) {
      const int64_t c = g * p_.channels_per_group() + k;
      ChannelSums channel = {0, 0};
      for (int64_t unit = 0; unit < layout_.channel_units; ++unit) {
        channel.dz += Partial(n, unit, c).dz;
        channel.dz_centered += Partial(n, unit, c).dz_centered;
      }
      group.dz += Gamma(n, c) * channel.dz;
      group.dz_centered += Gamma(n, c) * channel.dz_centered;
      channels_[n * p_.c + c] = {channel.dz, channel.dz_centered * rstd * p_.scale};
    }
    const double count = static_cast<double>(p_.group_size());
    groups_[n * p_.groups + g] = {group.dz_centered * p_.RstdSlope(rstd), -rstd * group.dz / count};
  }

  HWY_NOINLINE void WriteAffineGradient(Affine affine, int64_t c, double ChannelSums::*sum,
                                        CT* gradient) const {
    double total = 0;
    for (int64_t n = 0; n < p_.n; ++n) {
      const double sample = channels_[n * p_.c + c].*sum;
      if (affine == Affine::kPerSample) gradient[n * p_.c + c] = static_cast<CT>(sample);
      total += sample;
    }
    if (affine == Affine::kPerChannel) gradient[c] = static_cast<CT>(total);
  }

  // `finished`: slope and offset are known.
  BackwardCoefficients<Uniform<CT>> Coefficients(int64_t n, int64_t g, int64_t c,
                                                 bool finished) const {
    const int64_t group = n * p_.groups + g;
    const GroupTerms terms = finished ? groups_[group] : GroupTerms{0, 0};
    return {{t_.mean[group]},
            {static_cast<CT>(t_.rstd[group] * Gamma(n, c))},
            {static_cast<CT>(AffineAt(p_.beta, t_.beta, n, c, p_.c, 0.0))},
            {static_cast<CT>(terms.slope)},
            {static_cast<CT>(terms.offset)}};
  }

  Source<T, Tout> SourceAt(int64_t offset) const {
    return Source<T, Tout>{t_.x, t_.dy, t_.side} + offset;
  }

  template <class K>
  HWY_INLINE void Backward(int64_t offset, int64_t width, const K& k) const {
    T* dx = t_.dx == nullptr ? nullptr : t_.dx + offset;
    T* dside = t_.dside == nullptr ? nullptr : t_.dside + offset;
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      BackwardRow<activation()>(SourceAt(offset), dx, dside, width, k);
    });
  }

  // --- by columns ---

  void RunByColumns(const ParallelFor& parallel) const {
    const int64_t group_cols = p_.channels_per_group() * p_.b;
    const Span span = ChooseSpan(p_, layout_, sizeof(T) + sizeof(Tout), parallel.threads());
    if (span.fits_in_cache) {
      parallel(p_.n * span.count, span.bytes, [&](int64_t i) HWY_ATTR {
        const int64_t n = i / span.count, first = i % span.count * span.groups;
        const int64_t last = std::min(p_.groups, first + span.groups);
        const int64_t begin = first * group_cols;
        const int64_t end = last == p_.groups ? layout_.cols : last * group_cols;
        for (int64_t chunk = 0; chunk < layout_.chunks; ++chunk) {
          SumsOfColumns(n, chunk, begin, end);
        }
        for (int64_t g = first; g < last; ++g) FinishGroup(n, g);
        BackwardColumns(n, 0, layout_.rows, layout_.tail, begin, end);
      });
      return;
    }
    const int64_t bytes =
        layout_.chunk_rows * layout_.cols * static_cast<int64_t>(sizeof(T) + sizeof(Tout));
    parallel(p_.n * layout_.chunks, bytes, [&](int64_t i) HWY_ATTR {
      SumsOfColumns(i / layout_.chunks, i % layout_.chunks, 0, layout_.cols);
    });
    parallel(p_.n, p_.c * layout_.chunks * 64, [&](int64_t n) HWY_ATTR {
      for (int64_t g = 0; g < p_.groups; ++g) FinishGroup(n, g);
    });
    parallel(p_.n * layout_.chunks, 2 * bytes, [&](int64_t i) HWY_ATTR {
      const int64_t chunk = i % layout_.chunks;
      BackwardColumns(i / layout_.chunks, layout_.ChunkBegin(chunk), layout_.ChunkEnd(chunk),
                      layout_.ChunkTail(chunk), 0, layout_.cols);
    });
  }

  HWY_NOINLINE void SumsOfColumns(int64_t n, int64_t chunk, int64_t begin, int64_t end) const {
    ForEachTile(begin, end, p_.channels_per_group() * p_.b,
                [&](Tile tile) HWY_ATTR { SumsOfTile(n, chunk, tile); });
  }

  HWY_NOINLINE void FillTables(int64_t n, Tile tile, bool finished,
                               BackwardCoefficients<TileTable<CT>>& table) const {
    TileTable<CT>* const tables[] = {&table.mean, &table.scale, &table.beta, &table.slope,
                                     &table.offset};
    for (auto* t : tables) t->Fill(tile.width, 0);
    ForEachChannel(p_, tile, [&](int64_t c, int64_t g, int64_t j, int64_t count) {
      const auto channel = Coefficients(n, g, c, finished);
      std::fill_n(table.mean.at + j, count, channel.mean.value);
      std::fill_n(table.scale.at + j, count, channel.scale.value);
      std::fill_n(table.beta.at + j, count, channel.beta.value);
      std::fill_n(table.slope.at + j, count, channel.slope.value);
      std::fill_n(table.offset.at + j, count, channel.offset.value);
    });
    for (auto* t : tables) Replicate(p_.c * p_.b, tile.width, t->at);
  }

  HWY_NOINLINE void SumsOfTile(int64_t n, int64_t chunk, Tile tile) const {
    const Source<T, Tout> from =
        SourceAt(n * p_.a * p_.c * p_.b + tile.begin + layout_.ChunkBegin(chunk) * layout_.cols);
    const int64_t rows = layout_.ChunkEnd(chunk) - layout_.ChunkBegin(chunk);
    const int64_t tail = layout_.ChunkTail(chunk);
    BackwardCoefficients<TileTable<CT>> table;
    FillTables(n, tile, /*finished=*/false, table);

    ColumnSums<CT> sums;
    sums.Clear(tile.width);
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      for (int64_t r = 0; r < rows; r += kRowsAtOnce) {
        AddGradientRows<activation()>(from + r * layout_.cols, layout_.cols,
                                      std::min(kRowsAtOnce, rows - r), tile.width, table, sums);
        if ((r + kRowsAtOnce) % Layout::kFloatRows == 0) sums.Flush(tile.width);
      }
      sums.Flush(tile.width);
      if (tail > 0) {
        AddGradientRows<activation()>(from + rows * layout_.cols, 0, 1, tail, table, sums);
        sums.Flush(tail);
      }
    });
    const int64_t row = p_.c * p_.b;
    ForEachChannel(p_, tile, [&](int64_t c, int64_t, int64_t begin, int64_t count) {
      ChannelSums channel = {0, 0};
      for (int64_t fold = begin; fold < tile.width; fold += row) {
        for (int64_t j = fold; j < fold + count; ++j) {
          channel.dz += sums.first_total.at[j];
          channel.dz_centered += sums.second_total.at[j];
        }
      }
      // A channel may begin in the tile before.
      ChannelSums& partial = Partial(n, chunk, c);
      if ((tile.begin + begin) % p_.b == 0) partial = {0, 0};
      partial.dz += channel.dz;
      partial.dz_centered += channel.dz_centered;
    });
  }

  HWY_NOINLINE void BackwardColumns(int64_t n, int64_t row_begin, int64_t row_end, int64_t tail,
                                    int64_t begin, int64_t end) const {
    if (t_.dx == nullptr && t_.dside == nullptr) return;
    ForEachTile(begin, end, p_.channels_per_group() * p_.b, [&](Tile tile) HWY_ATTR {
      BackwardCoefficients<TileTable<CT>> table;
      FillTables(n, tile, /*finished=*/true, table);
      const int64_t sample = n * p_.a * p_.c * p_.b + tile.begin;
      for (int64_t r = row_begin; r < row_end; ++r) {
        Backward(sample + r * layout_.cols, tile.width, table);
      }
      if (tail > 0) Backward(sample + row_end * layout_.cols, tail, table);
    });
  }

  // --- by runs ---

  void RunByRuns(const ParallelFor& parallel) const {
    const int64_t units = layout_.channel_units;
    const int64_t channel_bytes = p_.a * p_.b * static_cast<int64_t>(sizeof(T) + sizeof(Tout));
    const int64_t group_bytes = p_.channels_per_group() * channel_bytes;
    if (group_bytes <= kCacheBytes && p_.n * p_.groups >= parallel.threads()) {
      ParallelRanges(parallel, p_.n * p_.groups, 2 * group_bytes, [&](int64_t i) HWY_ATTR {
        const int64_t n = i / p_.groups, g = i % p_.groups;
        const int64_t first = g * p_.channels_per_group();
        const int64_t last = first + p_.channels_per_group();
        for (int64_t c = first; c < last; ++c) {
          for (int64_t unit = 0; unit < units; ++unit) SumsOfPiece(n, g, c, unit);
        }
        FinishGroup(n, g);
        for (int64_t c = first; c < last; ++c) {
          for (int64_t unit = 0; unit < units; ++unit) BackwardPiece(n, g, c, unit);
        }
      });
      return;
    }
    const auto for_each_piece = [&](auto&& f) {
      ParallelRanges(parallel, p_.n * p_.c * units, channel_bytes / units, [&](int64_t i) {
        const int64_t c = i / units % p_.c;
        f(i / units / p_.c, c / p_.channels_per_group(), c, i % units);
      });
    };
    for_each_piece([&](int64_t n, int64_t g, int64_t c, int64_t unit)
                       HWY_ATTR { SumsOfPiece(n, g, c, unit); });
    const int64_t sums_bytes =
        p_.channels_per_group() * units * static_cast<int64_t>(sizeof(ChannelSums));
    ParallelRanges(parallel, p_.n * p_.groups, sums_bytes,
                   [&](int64_t i) HWY_ATTR { FinishGroup(i / p_.groups, i % p_.groups); });
    for_each_piece([&](int64_t n, int64_t g, int64_t c, int64_t unit)
                       HWY_ATTR { BackwardPiece(n, g, c, unit); });
  }

  // Where piece `unit` of channel c of sample n begins, and how long it is.
  Tile PieceOf(int64_t n, int64_t c, int64_t unit) const {
    const int64_t pieces = Layout::Pieces(p_.b);
    const int64_t a = unit / pieces, begin = unit % pieces * Layout::kPiece;
    return {((n * p_.a + a) * p_.c + c) * p_.b + begin, std::min(p_.b - begin, Layout::kPiece)};
  }

  HWY_NOINLINE void SumsOfPiece(int64_t n, int64_t g, int64_t c, int64_t unit) const {
    const hn::ScalableTag<CT> d;
    const Tile piece = PieceOf(n, c, unit);
    const Source<T, Tout> from = SourceAt(piece.begin);
    const auto k = Coefficients(n, g, c, /*finished=*/false);
    ChannelSums sums = {0, 0};
    Activations::Dispatch(p_.activation, [&](auto activation) HWY_ATTR {
      SumRun<CT>(piece.width, &sums.dz, &sums.dz_centered,
                 [&](int64_t j, auto lanes, auto& first, auto& second) HWY_ATTR {
                   const auto at = GradientAt<activation()>(d, from, j, lanes, k, j);
                   first = hn::Add(first, at.dz);
                   second = hn::MulAdd(at.dz, at.centered, second);
                 });
    });
    Partial(n, unit, c) = sums;
  }

  HWY_NOINLINE void BackwardPiece(int64_t n, int64_t g, int64_t c, int64_t unit) const {
    if (t_.dx == nullptr && t_.dside == nullptr) return;
    const Tile piece = PieceOf(n, c, unit);
    Backward(piece.begin, piece.width, Coefficients(n, g, c, /*finished=*/true));
  }

  const Normalization& p_;
  const BackwardTensors<T, Tout>& t_;
  const Layout layout_;
  ChannelSums* partial_;   // [N, units, C]
  ChannelSums* channels_;  // [N, C]
  GroupTerms* groups_;     // [N, G]
};

}  // namespace
// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace tfgn
HWY_AFTER_NAMESPACE();

#endif  // TFGN_KERNELS_NORMALIZE_BACKWARD_INL_H_
