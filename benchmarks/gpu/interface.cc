// The CUDA kernels behind a C interface, for ctypes. Every function returns "" or what went wrong,
// valid until the thread's next call.
#include <algorithm>
#include <string>

#include "kernels/cuda/group_norm.h"
#include "kernels/cuda/standardize_weights.h"

namespace tfgn {
namespace {

thread_local std::string message;

const char* Return(std::string error) {
  message = std::move(error);
  return message.c_str();
}

const char* Device(const CudaDevice** device) {
  static CudaDevice queried;
  static const std::string error = QueryCudaDevice(&queried);
  *device = &queried;
  return Return(error);
}

enum Dtype { kFloat16, kBfloat16, kFloat32, kFloat64 };

// f(T()) for the type that `dtype` names.
template <class F>
std::string WithType(int dtype, F&& f) {
  switch (dtype) {
    case kFloat16:
      return f(float16());
    case kBfloat16:
      return f(bfloat16());
    case kFloat32:
      return f(float());
    default:
      return f(double());
  }
}

// f(T(), device) for the type that `dtype` names, on the current device.
template <class F>
const char* OnDevice(int dtype, F&& f) {
  const CudaDevice* device;
  if (const char* error = Device(&device); *error != '\0') return error;
  return Return(WithType(dtype, [&](auto t) { return f(t, *device); }));
}

template <typename T, typename P>
T* As(P* p) {
  return static_cast<T*>(p);
}

template <typename Shape, typename Tensors>
std::string Run(const Shape& shape, const Tensors& tensors, void* workspace,
                const CudaQueue& queue) {
  return Plan<Tensors>(shape, queue).Run(tensors, workspace, queue);
}

}  // namespace
}  // namespace tfgn

using tfgn::ParamOf;

extern "C" {

struct tfgn_shape {
  int64_t n, a, c, b, groups;
  double epsilon;
  int32_t activation, gamma, beta, has_side_input;  // in the order of the enumerations
};

// In the order of ForwardTensors or BackwardTensors.
struct tfgn_tensors {
  void* pointer[11];
};

}  // extern "C"

namespace {

tfgn::GroupNormShape ShapeOf(const tfgn_shape& s) {
  tfgn::GroupNormShape shape;
  shape.n = s.n;
  shape.a = s.a;
  shape.c = s.c;
  shape.b = s.b;
  shape.groups = s.groups;
  shape.epsilon = s.epsilon;
  shape.activation = static_cast<tfgn::Activation>(s.activation);
  shape.gamma = static_cast<tfgn::Affine>(s.gamma);
  shape.beta = static_cast<tfgn::Affine>(s.beta);
  shape.has_side_input = s.has_side_input != 0;
  return shape;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) const char* tfgn_group_norm_workspace(int dtype,
                                                                             const tfgn_shape* s,
                                                                             int64_t* bytes) {
  return tfgn::OnDevice(dtype, [&](auto type, const tfgn::CudaDevice& device) {
    using T = decltype(type);
    const tfgn::GroupNormShape shape = ShapeOf(*s);
    const tfgn::CudaQueue queue{device};
    *bytes = std::max(tfgn::Plan<tfgn::ForwardTensors<T>>(shape, queue).workspace_bytes(),
                      tfgn::Plan<tfgn::BackwardTensors<T>>(shape, queue).workspace_bytes());
    return std::string();
  });
}

__attribute__((visibility("default"))) const char* tfgn_group_norm_forward(
    int dtype, const tfgn_shape* s, const tfgn_tensors* tensors, void* workspace, void* stream) {
  return tfgn::OnDevice(dtype, [&](auto type, const tfgn::CudaDevice& device) {
    using T = decltype(type);
    using U = ParamOf<T>;
    void* const* p = tensors->pointer;
    tfgn::ForwardTensors<T> t;
    t.x = tfgn::As<T>(p[0]);
    t.gamma = tfgn::As<U>(p[1]);
    t.beta = tfgn::As<U>(p[2]);
    t.side_input = tfgn::As<T>(p[3]);
    t.y = tfgn::As<T>(p[4]);
    t.mean = tfgn::As<U>(p[5]);
    t.rstd = tfgn::As<U>(p[6]);
    return tfgn::Run(ShapeOf(*s), t, workspace, {device, stream});
  });
}

__attribute__((visibility("default"))) const char* tfgn_group_norm_backward(
    int dtype, const tfgn_shape* s, const tfgn_tensors* tensors, void* workspace, void* stream) {
  return tfgn::OnDevice(dtype, [&](auto type, const tfgn::CudaDevice& device) {
    using T = decltype(type);
    using U = ParamOf<T>;
    void* const* p = tensors->pointer;
    tfgn::BackwardTensors<T> t;
    t.dy = tfgn::As<T>(p[0]);
    t.x = tfgn::As<T>(p[1]);
    t.gamma = tfgn::As<U>(p[2]);
    t.beta = tfgn::As<U>(p[3]);
    t.mean = tfgn::As<U>(p[4]);
    t.rstd = tfgn::As<U>(p[5]);
    t.side_input = tfgn::As<T>(p[6]);
    t.dx = tfgn::As<T>(p[7]);
    t.dgamma = tfgn::As<U>(p[8]);
    t.dbeta = tfgn::As<U>(p[9]);
    t.dside = tfgn::As<T>(p[10]);
    return tfgn::Run(ShapeOf(*s), t, workspace, {device, stream});
  });
}

// w of float32 with its output channels on the last axis: w_hat, mean, rstd; then dw, dgain.
__attribute__((visibility("default"))) const char* tfgn_standardize_weights(
    int64_t fan_in, int64_t outputs, double epsilon, const tfgn_tensors* tensors, void* stream) {
  const tfgn::CudaDevice* device;
  if (const char* error = tfgn::Device(&device); *error != '\0') return error;
  const int64_t size[] = {fan_in, outputs}, axis = 1;
  tfgn::StandardizeWeightsCall call;
  call.w = {size, 2};
  call.gain = {size + 1, 1};
  call.axis = &axis;
  call.num_axes = 1;
  call.epsilon = epsilon;
  tfgn::StandardizeWeightsShape shape;
  std::string error = tfgn::ValidateStandardizeWeights(call, &shape);
  if (!error.empty()) return tfgn::Return(error);
  // w, gain, w_hat, mean, rstd, dw_hat, dw, dgain
  float* p[8];
  for (int i = 0; i < 8; ++i) p[i] = tfgn::As<float>(tensors->pointer[i]);
  const tfgn::CudaQueue queue{*device, stream};
  tfgn::ForwardTensors<float> forward;
  forward.x = p[0];
  forward.gamma = p[1];
  forward.y = p[2];
  forward.mean = p[3];
  forward.rstd = p[4];
  error = tfgn::Run(shape, forward, nullptr, queue);
  if (!error.empty() || p[5] == nullptr) return tfgn::Return(error);
  tfgn::BackwardTensors<float> backward;
  backward.dy = p[5];
  backward.x = p[0];
  backward.gamma = p[1];
  backward.mean = p[3];
  backward.rstd = p[4];
  backward.dx = p[6];
  backward.dgamma = p[7];
  return tfgn::Return(tfgn::Run(shape, backward, nullptr, queue));
}

}  // extern "C"
