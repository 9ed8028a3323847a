// The instruction set that the kernels run on.
#ifndef TFGN_KERNELS_CPU_TARGET_H_
#define TFGN_KERNELS_CPU_TARGET_H_

#include <string>
#include <vector>

namespace tfgn {

// Names of the targets compiled in that this machine supports, best first, e.g. "AVX3" (AVX-512).
std::vector<std::string> CpuTargets();

// The target in use: the first of CpuTargets unless SelectCpuTarget was called.
std::string CpuTarget();

// For tests: use the target of this name, or the best one for "". False if it is not in CpuTargets.
// Not to be called while a kernel runs.
bool SelectCpuTarget(const std::string& name);

// "1.0.3".
std::string HighwayVersion();

}  // namespace tfgn

#endif  // TFGN_KERNELS_CPU_TARGET_H_
