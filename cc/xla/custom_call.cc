#include "xla/custom_call.h"

#include <memory>

#include "absl/log/log.h"
#include "kernels/message.h"
#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/kernel_def_builder.h"
#include "tensorflow/core/util/overflow.h"

namespace xla::ffi {
// Declared in xla/ffi/ffi_api.h, which needs headers of LLVM.
const XLA_FFI_Api* GetXlaFfiApi();
}  // namespace xla::ffi

namespace tfgn {
namespace {

absl::Status WrongBuffer(const char* what, size_t index, const ffi::AnyBuffer& buffer,
                         const std::string& expected) {
  const auto sizes = buffer.dimensions();
  return absl::InvalidArgumentError(
      Concat(what, " ", index, " of the custom call must be ", expected, ", but is of type ",
             static_cast<int>(buffer.element_type()), " and shape ",
             ToString(Dims{sizes.begin(), static_cast<int>(sizes.size())})));
}

bool HasType(const ffi::AnyBuffer& buffer, tensorflow::DataType type) {
  xla::PrimitiveType primitive;
  return tensorflow::DataTypeToPrimitiveType(type, &primitive).ok() &&
         static_cast<int>(primitive) == static_cast<int>(buffer.element_type());
}

}  // namespace

absl::Status CallBuffers::TakeInputs(const ffi::RemainingArgs& args, const InputTypes& types,
                                     bool has_batch) {
  has_batch = has_batch && args.size() == types.size() + 1;
  if (args.size() != types.size() && !has_batch) {
    return absl::InvalidArgumentError(
        Concat("The custom call must have ", types.size(), " operands, but has ", args.size()));
  }
  for (size_t i = 0; i < types.size(); ++i) {
    const auto arg = args.get<ffi::AnyBuffer>(i);
    if (arg.has_error()) return absl::InvalidArgumentError(arg.error().message());
    if (!HasType(*arg, types[i])) {
      return WrongBuffer("Operand", i, *arg, tensorflow::DataTypeString(types[i]));
    }
    sizes_.push_back({arg->dimensions().begin(), arg->dimensions().size()});
    inputs_.push_back(arg->untyped_data());
  }
  if (!has_batch) return absl::OkStatus();
  const auto batch = args.get<ffi::Buffer<ffi::S32, 0>>(types.size());
  if (batch.has_error()) return absl::InvalidArgumentError(batch.error().message());
  batch_ = *batch->typed_data();
  for (const absl::Span<const int64_t> sizes : sizes_) {
    if (sizes.size() < 2 || (*batch_ >= 0 && *batch_ <= sizes[0])) continue;
    return absl::InvalidArgumentError(
        Concat("The batch of ", *batch_, " samples does not fit its bound ", sizes[0]));
  }
  return absl::OkStatus();
}

InputDims CallBuffers::dims() const {
  return InputDims(static_cast<int>(sizes_.size()), [this](int i) {
    absl::InlinedVector<int64_t, 4> sizes(sizes_[i].begin(), sizes_[i].end());
    if (batch_ && sizes.size() > 1) sizes[0] = *batch_;
    return sizes;
  });
}

absl::Status CallBuffers::TakeOutputs(const ffi::RemainingRets& results, const OutputSpecs& specs) {
  size_t computed = 0;
  for (const OutputSpec& spec : specs) computed += spec.is_input < 0;
  if (results.size() != computed + 1) {
    return absl::InvalidArgumentError(
        Concat("The custom call must have ", computed + 1, " results, but has ", results.size()));
  }
  size_t next = 0;
  for (const OutputSpec& spec : specs) {
    if (spec.is_input >= 0) {
      outputs_.push_back(nullptr);
      continue;
    }
    auto result = results.get<ffi::AnyBuffer>(next++);
    if (result.has_error()) return absl::InvalidArgumentError(result.error().message());
    int64_t count = 1;  // -1 where there are more than an int64 counts
    for (const int64_t size : spec.sizes) {
      count = tensorflow::MultiplyWithoutOverflow(count, size);
      if (count < 0) break;
    }
    const ffi::AnyBuffer& buffer = **result;
    if (!HasType(buffer, spec.type) || count < 0 ||
        static_cast<int64_t>(buffer.element_count()) < count) {
      return WrongBuffer("Result", next - 1, buffer,
                         Concat(count, " elements of ", tensorflow::DataTypeString(spec.type)));
    }
    outputs_.push_back(buffer.untyped_data());
  }
  auto workspace = results.get<ffi::Buffer<ffi::U8, 1>>(next);
  if (workspace.has_error()) return absl::InvalidArgumentError(workspace.error().message());
  workspace_ = (*workspace)->untyped_data();
  workspace_bytes_ = (*workspace)->size_bytes();
  return absl::OkStatus();
}

absl::Status CallBuffers::TakeWorkspace(int64_t bytes, void** workspace) const {
  *workspace = workspace_;
  size_t space = workspace_bytes_;
  if (std::align(kWorkspaceAlignment, bytes, *workspace, space) == nullptr) {
    return absl::InvalidArgumentError(
        Concat("The workspace must have ", bytes, " bytes, but has ", space));
  }
  return absl::OkStatus();
}

bool Register(const char* name, const Registration& registration) {
  if (registration.handler != nullptr &&
      ffi::Ffi::RegisterStaticHandler(ffi::GetXlaFfiApi(), TargetOf(name), registration.platform,
                                      registration.handler)) {
    LOG(ERROR) << "XLA refused the handler of " << name << ", which will not run under XLA";
  }
  const char* device = registration.jit_device;
  const tensorflow::XlaOpRegistrar registrar(
      tensorflow::XlaOpRegistrationBuilder::Name(name).Device(device).Build(registration.create));
  // When TensorFlow first compiles, it registers all XLA kernels with its executor. A later one has
  // to register itself.
  const tensorflow::KernelList in_use = tensorflow::GetRegisteredKernelsForOp("Identity");
  for (const tensorflow::KernelDef& kernel : in_use.kernel()) {
    if (kernel.device_type() != device) continue;
    const tensorflow::kernel_factory::OpKernelRegistrar late(
        tensorflow::KernelDefBuilder(name).Device(device).Build(), "XlaJitOp", registration.create);
    break;
  }
  return true;
}

}  // namespace tfgn
