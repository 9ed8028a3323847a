// GroupNorm on the CPU.
#ifndef TFGN_KERNELS_CPU_GROUP_NORM_H_
#define TFGN_KERNELS_CPU_GROUP_NORM_H_

#include "kernels/cpu/pass.h"
#include "kernels/group_norm.h"

namespace tfgn {

template <class Tensors>
CpuPass<Tensors> Plan(const GroupNormShape& shape, const ParallelFor& parallel);

}  // namespace tfgn

#endif  // TFGN_KERNELS_CPU_GROUP_NORM_H_
