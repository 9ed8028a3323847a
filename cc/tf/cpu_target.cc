// What the op library tells Python beside its ops.
#include "kernels/cpu/target.h"

#include <string>

// The instruction set that the CPU kernels of this library run on, e.g. "AVX2". The string is valid
// as long as the library is loaded.
extern "C" __attribute__((visibility("default"))) const char* tfgn_cpu_target() {
  static const std::string target = tfgn::CpuTarget();
  return target.c_str();
}
