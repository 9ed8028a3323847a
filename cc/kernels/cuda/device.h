// The CUDA device that kernels are planned for and run on.
#ifndef TFGN_KERNELS_CUDA_DEVICE_H_
#define TFGN_KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <string>

namespace tfgn {

struct CudaDevice {
  // Ten times the major version plus the minor one: of the device, or of the code that it runs if
  // that is compiled for less.
  int compute_capability = 75;
  int multiprocessors = 1;
  int64_t shared_per_block = 48 << 10;  // the most that a kernel can ask for
  int64_t shared_per_multiprocessor = 48 << 10;
  int64_t l2_bytes = 0;
};

// Where a kernel runs: a cudaStream_t of the current device of the calling thread, which is
// `device`.
struct CudaQueue {
  CudaDevice device;
  void* stream = nullptr;
};

// Fills *device with the properties of the calling thread's current device and returns "", or
// returns an error in one sentence, for example that the driver is older than the CUDA runtime.
std::string QueryCudaDevice(CudaDevice* device);

}  // namespace tfgn

#endif  // TFGN_KERNELS_CUDA_DEVICE_H_
