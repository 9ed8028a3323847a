#include "kernels/cuda/device.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "kernels/message.h"

namespace tfgn {
namespace {

// "12.5" for 12050.
std::string VersionOf(int version) { return Concat(version / 1000, ".", version % 1000 / 10); }

// Compiled for the same architectures as all kernels.
__global__ void Probe() {}

std::string QueryProperties(int id, CudaDevice* device) {
  int major = 0, minor = 0, shared_per_block = 0, shared_per_multiprocessor = 0, l2 = 0;
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } queries[] = {{cudaDevAttrComputeCapabilityMajor, &major},
                 {cudaDevAttrComputeCapabilityMinor, &minor},
                 {cudaDevAttrMultiProcessorCount, &device->multiprocessors},
                 {cudaDevAttrMaxSharedMemoryPerBlockOptin, &shared_per_block},
                 {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &shared_per_multiprocessor},
                 {cudaDevAttrL2CacheSize, &l2}};
  for (const auto& query : queries) {
    const cudaError_t error = cudaDeviceGetAttribute(query.value, query.attribute, id);
    if (error != cudaSuccess) {
      return Concat("asking for the properties of CUDA device ", id,
                    " failed: ", cudaGetErrorString(error));
    }
  }
  cudaFuncAttributes code;
  const cudaError_t found = cudaFuncGetAttributes(&code, Probe);
  if (found != cudaSuccess) {
    return Concat("the CUDA kernels are not compiled for devices of compute capability ", major,
                  ".", minor, ": ", cudaGetErrorString(found));
  }
  // Plans must not rely on what code for an older device leaves out.
  device->compute_capability = std::min(10 * major + minor, code.ptxVersion);
  device->shared_per_block = shared_per_block;
  device->shared_per_multiprocessor = shared_per_multiprocessor;
  device->l2_bytes = l2;
  return "";
}

}  // namespace

std::string QueryCudaDevice(CudaDevice* device) {
  int id = 0;
  const cudaError_t status = cudaGetDevice(&id);
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);  // stays 0 where there is no driver
    const std::string found =
        driver == 0 ? "there is none" : Concat("this one supports CUDA ", VersionOf(driver));
    return Concat("the CUDA kernels need an NVIDIA driver for CUDA ", VersionOf(CUDART_VERSION),
                  " or newer, but ", found);
  }
  if (status != cudaSuccess) {
    return Concat("looking for a CUDA device failed: ", cudaGetErrorString(status), " (",
                  cudaGetErrorName(status), ")");
  }
  // Cached, because a query takes longer than the launch of a kernel.
  static std::mutex mutex;
  static auto* const known = new std::map<int, CudaDevice>;
  const std::lock_guard<std::mutex> lock(mutex);
  if (const auto found = known->find(id); found != known->end()) {
    *device = found->second;
    return "";
  }
  std::string error = QueryProperties(id, device);
  if (error.empty()) known->emplace(id, *device);
  return error;
}

}  // namespace tfgn
