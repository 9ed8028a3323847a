// The backward pass of a Normalization on a CUDA device: sums of gradients, then one elementwise
// pass, in one launch or in two; the gradients of gamma and beta, summed over samples, in one more.
#include "kernels/cuda/backward_block.cuh"

namespace tfgn {
namespace cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kCudaMaxThreads, kCudaBackwardBlocks)
    BackwardKernel(const __grid_constant__ BackwardArgs<T> args) {
  BackwardBlock<T>(args).Run();
}

}  // namespace
}  // namespace cuda

template <typename T>
std::string LaunchNormalization(const CudaWork& work, const ErasedBackwardTensors<T>& tensors,
                                void* workspace, void* stream) {
  const Normalization& p = work.p;
  const CudaPlan& plan = work.plan;
  using CT = ParamOf<T>;
  ErasedBackwardTensors<T> t = tensors;
  if (p.gamma == Affine::kAbsent) t.dgamma = nullptr;
  if (p.beta == Affine::kAbsent) t.dbeta = nullptr;
  if (p.empty()) {
    constexpr int64_t kSize = sizeof(CT);
    std::string error = cuda::FillWithZeros(t.dgamma, p.affine_size(p.gamma) * kSize, stream);
    if (!error.empty()) return error;
    return cuda::FillWithZeros(t.dbeta, p.affine_size(p.beta) * kSize, stream);
  }
  cuda::BackwardArgs<T> args = {};
  args.p = p;
  args.plan = plan;
  args.vectors = cuda::IsAligned(t.x, 16) && cuda::IsAligned(t.side_input, 16) &&
                 cuda::IsAligned(t.dx, 16) && cuda::IsAligned(t.dside, 16) &&
                 cuda::IsAligned(t.dy, plan.vector * SizeOf(t.dy_type)) &&
                 cuda::IsAligned(t.y, plan.vector * SizeOf(t.dy_type));
  args.t = t;
  args.direct_affine = AffineGradientsAreOfGroups(p);
  const CudaScratch scratch(p, plan, workspace);
  args.partial_sums = static_cast<CT*>(scratch.partial_sums);
  const bool wants_affine = t.dgamma != nullptr || t.dbeta != nullptr;
  if (wants_affine) args.affine_sums = static_cast<CT*>(scratch.affine_sums);
  std::string error = cuda::LaunchPass(cuda::BackwardKernel<T>, args, stream);
  if (!error.empty() || !wants_affine || args.direct_affine) return error;
  const cuda::AffineArgs<CT> affine = {plan.sample_blocks, plan.chunks,       p.c,
                                       args.affine_sums,   {p.beta, p.gamma}, {t.dbeta, t.dgamma}};
  return cuda::LaunchAffine(affine, stream);
}

#define TFGN_INSTANTIATE(T)                                                                  \
  template std::string LaunchNormalization(const CudaWork&, const ErasedBackwardTensors<T>&, \
                                           void*, void*);
TFGN_FOR_EACH_DTYPE(TFGN_INSTANTIATE)
#undef TFGN_INSTANTIATE

}  // namespace tfgn
