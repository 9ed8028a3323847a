#include "kernels/cuda/group_norm.h"

#include "kernels/cuda/pass.h"

namespace tfgn {
namespace {

constexpr bool kOneLaunch = false;

}  // namespace

template <typename T>
int64_t GroupNormForwardWorkspaceCuda(const GroupNormShape& shape, const CudaDevice& device) {
  return CudaForwardWorkspace<T>(NormalizationOf(shape), ElementTypeOf<T>(), kOneLaunch, device);
}

template <typename T>
int64_t GroupNormBackwardWorkspaceCuda(const GroupNormShape& shape, const CudaDevice& device) {
  return CudaBackwardWorkspace<T>(NormalizationOf(shape), ElementTypeOf<T>(), kOneLaunch, device);
}

template <typename T>
std::string GroupNormForwardCuda(const GroupNormShape& shape, const GroupNormForwardTensors<T>& t,
                                 const CudaDevice& device, void* workspace, void* stream) {
  const T* side = shape.has_side_input ? t.side_input : nullptr;
  const CudaForwardTensors<T> tensors = {t.x,    t.gamma, t.beta, side, t.y, ElementTypeOf<T>(),
                                         t.mean, t.rstd};
  return NormalizeForwardCuda(NormalizationOf(shape), tensors,
                              {device, kOneLaunch, workspace, stream});
}

template <typename T>
std::string GroupNormBackwardCuda(const GroupNormShape& shape, const GroupNormBackwardTensors<T>& t,
                                  const CudaDevice& device, void* workspace, void* stream) {
  const T* side = shape.has_side_input ? t.side_input : nullptr;
  const CudaBackwardTensors<T> tensors = {
      t.dy, ElementTypeOf<T>(), t.x,     t.gamma, t.beta, t.mean, t.rstd, side,
      t.dx, t.dgamma,           t.dbeta, t.dside};
  return NormalizeBackwardCuda(NormalizationOf(shape), tensors,
                               {device, kOneLaunch, workspace, stream});
}

#define TFGN_INSTANTIATE(T)                                                                       \
  template int64_t GroupNormForwardWorkspaceCuda<T>(const GroupNormShape&, const CudaDevice&);    \
  template int64_t GroupNormBackwardWorkspaceCuda<T>(const GroupNormShape&, const CudaDevice&);   \
  template std::string GroupNormForwardCuda<T>(                                                   \
      const GroupNormShape&, const GroupNormForwardTensors<T>&, const CudaDevice&, void*, void*); \
  template std::string GroupNormBackwardCuda<T>(                                                  \
      const GroupNormShape&, const GroupNormBackwardTensors<T>&, const CudaDevice&, void*, void*);
TFGN_FOR_EACH_DTYPE(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
