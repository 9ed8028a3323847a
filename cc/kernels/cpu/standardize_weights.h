// StandardizeWeights on the CPU.
#ifndef TFGN_KERNELS_CPU_STANDARDIZE_WEIGHTS_H_
#define TFGN_KERNELS_CPU_STANDARDIZE_WEIGHTS_H_

#include "kernels/cpu/pass.h"
#include "kernels/standardize_weights.h"

namespace tfgn {

template <class Tensors>
CpuPass<Tensors> Plan(const StandardizeWeightsShape& shape, const ParallelFor& parallel);

}  // namespace tfgn

#endif  // TFGN_KERNELS_CPU_STANDARDIZE_WEIGHTS_H_
