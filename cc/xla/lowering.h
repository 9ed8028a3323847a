// How TensorFlow's bridge compiles an op to a custom call. Apart from custom_call.h: the bridge's
// headers take a minute to compile, and are included once, in lowering.cc.
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

// What a call with such inputs compiles to, or why it is not valid.
using DescribeCall = std::function<absl::Status(const InputDims& inputs, CustomCall* call)>;

// The XLA kernel of an op. `has_batch`: Op::kHasBatch.
tensorflow::OpKernel* NewLowering(tensorflow::OpKernelConstruction* ctx, bool has_batch,
                                  DescribeCall describe);

// The target of the custom calls of an op.
inline std::string TargetOf(const std::string& op) { return "tfgn." + op; }

// A workspace is that much larger than asked for, for its alignment.
inline constexpr int64_t kWorkspaceAlignment = 64;

}  // namespace tfgn

#endif  // TFGN_XLA_LOWERING_H_
