// StandardizeWeights on the CPU: a Normalization in which every output channel is a group. If the
// axes do not allow that view, it runs on a transposed copy.
#include "kernels/cpu/standardize_weights.h"

#include <vector>

namespace tfgn {
namespace {

// Copies the elements of a tensor, whose sizes `runs` are alternately reduced and kept, from its
// own order to [outputs, fan_in], or back.
enum class Order { kToOutputMajor, kFromOutputMajor };

template <typename T>
void Reorder(const CpuPlan& plan, Order order, const T* from, T* to) {
  const int rank = static_cast<int>(plan.runs.size());
  const int64_t outputs = plan.p.c, fan_in = plan.p.b;
  std::vector<int64_t> stride(rank), index(rank, 0);
  int64_t kept_stride = fan_in, reduced_stride = 1;
  for (int i = rank - 1; i >= 0; --i) {
    int64_t& next = i % 2 == 0 ? reduced_stride : kept_stride;
    stride[i] = next;
    next *= plan.runs[i];
  }
  int64_t output_major = 0;
  for (int64_t i = 0; i < outputs * fan_in; ++i) {
    if (order == Order::kToOutputMajor) {
      to[output_major] = from[i];
    } else {
      to[i] = from[output_major];
    }
    for (int k = rank - 1; k >= 0; --k) {
      output_major += stride[k];
      if (++index[k] < plan.runs[k]) break;
      output_major -= index[k] * stride[k];
      index[k] = 0;
    }
  }
}

// What a pass on transposed copies keeps in scratch memory.
template <class Tensors>
struct Copies;

template <typename T, typename Tout>
struct Copies<ForwardTensors<T, Tout>> {
  Copies(const CpuPlan& plan, Scratch scratch)
      : pass(scratch.Take<char>(PassScratch<ForwardTensors<T, Tout>>(plan, Scratch()).bytes)),
        x(scratch.Take<T>(plan.p.c * plan.p.b)),
        y(scratch.Take<Tout>(plan.p.c * plan.p.b)),
        bytes(scratch.used()) {}

  void* pass;
  T* x;
  Tout* y;
  int64_t bytes;
};

template <typename T, typename Tout>
struct Copies<BackwardTensors<T, Tout>> {
  Copies(const CpuPlan& plan, Scratch scratch)
      : pass(scratch.Take<char>(PassScratch<BackwardTensors<T, Tout>>(plan, Scratch()).bytes)),
        x(scratch.Take<T>(plan.p.c * plan.p.b)),
        dy(scratch.Take<Tout>(plan.p.c * plan.p.b)),
        dx(scratch.Take<T>(plan.p.c * plan.p.b)),
        bytes(scratch.used()) {}

  void* pass;
  T* x;
  Tout* dy;
  T* dx;
  int64_t bytes;
};

template <typename T, typename Tout>
void RunTransposed(const CpuPlan& plan, const ForwardTensors<T, Tout>& tensors, void* workspace,
                   const ParallelFor& parallel) {
  const Copies<ForwardTensors<T, Tout>> copies(plan, Scratch(workspace));
  ForwardTensors<T, Tout> transposed = tensors;
  transposed.x = copies.x;
  transposed.y = copies.y;
  Reorder(plan, Order::kToOutputMajor, tensors.x, copies.x);
  RunNormalization(plan, transposed, copies.pass, parallel);
  Reorder<Tout>(plan, Order::kFromOutputMajor, copies.y, tensors.y);
}

template <typename T, typename Tout>
void RunTransposed(const CpuPlan& plan, const BackwardTensors<T, Tout>& tensors, void* workspace,
                   const ParallelFor& parallel) {
  const Copies<BackwardTensors<T, Tout>> copies(plan, Scratch(workspace));
  BackwardTensors<T, Tout> transposed = tensors;
  transposed.x = copies.x;
  transposed.dy = copies.dy;
  if (tensors.dx != nullptr) transposed.dx = copies.dx;
  Reorder(plan, Order::kToOutputMajor, tensors.x, copies.x);
  Reorder(plan, Order::kToOutputMajor, tensors.dy, copies.dy);
  RunNormalization(plan, transposed, copies.pass, parallel);
  if (tensors.dx != nullptr) Reorder<T>(plan, Order::kFromOutputMajor, copies.dx, tensors.dx);
}

}  // namespace

template <class Tensors>
CpuPass<Tensors> Plan(const StandardizeWeightsShape& shape, const ParallelFor&) {
  const Normalization p = NormalizationOf(shape);
  if (shape.runs.empty()) return Plan<Tensors>(p);
  CpuPlan plan(p);
  plan.runs = shape.runs;
  return {plan, RunTransposed, Copies<Tensors>(plan, Scratch()).bytes};
}

#define TFGN_INSTANTIATE(T, Tout)                                                 \
  template CpuPass<ForwardTensors<T, Tout>> Plan(const StandardizeWeightsShape&,  \
                                                 const ParallelFor&);             \
  template CpuPass<BackwardTensors<T, Tout>> Plan(const StandardizeWeightsShape&, \
                                                  const ParallelFor&);
TFGN_FOR_EACH_DTYPE_PAIR(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
