// Compiles ops through TensorFlow's bridge. Only lowering.cc includes the headers of the bridge,
// which take a minute to compile.
#ifndef TFGN_XLA_LOWERING_H_
#define TFGN_XLA_LOWERING_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "op/op.h"

namespace tensorflow {
class OpKernel;
class OpKernelConstruction;
}  // namespace tensorflow

namespace tfgn {

struct CustomCall {
  std::string attrs;  // a dictionary attribute of MLIR
  OutputSpecs outputs;
  int64_t workspace_bytes = 0;
};

// Describes the call for such inputs, or returns an error if they are not valid.
using DescribeCall = std::function<absl::Status(const InputDims& inputs, CustomCall* call)>;

// The XLA kernel of an op: a custom call. `has_batch`: Op::kHasBatch.
tensorflow::OpKernel* NewLowering(tensorflow::OpKernelConstruction* ctx, bool has_batch,
                                  DescribeCall describe);

// The XLA kernel of OptimizationBarrier. On the CPU, XLA removes its own barriers before it merges
// what is equal. There, y is x with a dependency on a token, which a custom call makes of `after`.
tensorflow::OpKernel* NewBarrier(tensorflow::OpKernelConstruction* ctx, bool is_for_gpu);

// The target of the custom calls of an op.
inline std::string TargetOf(const std::string& op) { return "tfgn." + op; }

// XLA allocates so many bytes more for a workspace, because its result may not be aligned.
inline constexpr int64_t kWorkspaceAlignment = 64;

}  // namespace tfgn

#endif  // TFGN_XLA_LOWERING_H_
