#include "model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session_options.h"

struct Model::Loaded {
  tensorflow::SavedModelBundleLite bundle;
  std::string input;
  std::string output;
  tensorflow::PartialTensorShape input_shape;
};

namespace {

using tensorflow::TensorInfo;

// Adds a remedy to the error for an op that no loaded library has. Other errors are unchanged.
absl::Status Explained(const absl::Status& status) {
  constexpr absl::string_view kMissing = "Op type not registered '";
  const absl::string_view message = status.message();
  const size_t at = message.find(kMissing);
  if (at == message.npos) return status;
  const absl::string_view rest = message.substr(at + kMissing.size());
  return absl::FailedPreconditionError(
      absl::StrCat("the model needs the op ", rest.substr(0, rest.find('\'')),
                   ", which no loaded library has: name the library that does with --library"));
}

absl::StatusOr<TensorInfo> TheOnlyFloat(
    const google::protobuf::Map<std::string, TensorInfo>& tensors, absl::string_view what) {
  if (tensors.size() != 1) {
    return absl::UnimplementedError(
        absl::StrCat("the signature must have one ", what, ", but has ", tensors.size()));
  }
  const TensorInfo& info = tensors.begin()->second;
  if (info.dtype() != tensorflow::DT_FLOAT) {
    return absl::UnimplementedError(
        absl::StrCat("the ", what, " of the signature must be of type float, but is of type ",
                     tensorflow::DataTypeString(info.dtype())));
  }
  return info;
}

}  // namespace

absl::Status LoadOpLibrary(const std::string& path) {
  TF_Status* status = TF_NewStatus();
  TF_LoadLibrary(path.c_str(), status);
  absl::Status result;
  if (TF_GetCode(status) != TF_OK) {
    result =
        absl::NotFoundError(absl::StrCat("the op library cannot be loaded: ", TF_Message(status)));
  }
  TF_DeleteStatus(status);
  return result;
}

Model::Model(std::unique_ptr<Loaded> loaded) : loaded_(std::move(loaded)) {}
Model::Model(Model&&) = default;
Model& Model::operator=(Model&&) = default;
Model::~Model() = default;

std::string Model::input_shape() const { return loaded_->input_shape.DebugString(); }

absl::StatusOr<Model> Model::Load(const std::string& path, const std::string& signature) {
  if (!tensorflow::MaybeSavedModelDirectory(path)) {
    return absl::NotFoundError(absl::StrCat("there is no SavedModel in ", path));
  }
  auto loaded = std::make_unique<Loaded>();
  const absl::Status status = tensorflow::LoadSavedModel(
      tensorflow::SessionOptions(), tensorflow::RunOptions(), path, {"serve"}, &loaded->bundle);
  if (!status.ok()) return Explained(status);

  const auto& signatures = loaded->bundle.GetSignatures();
  const auto found = signatures.find(signature);
  if (found == signatures.end()) {
    const auto name = [](std::string* list, const auto& entry) {
      absl::StrAppend(list, entry.first);
    };
    return absl::NotFoundError(absl::StrCat("the model has no signature ", signature,
                                            "; it has: ", absl::StrJoin(signatures, ", ", name)));
  }
  const auto input = TheOnlyFloat(found->second.inputs(), "input");
  if (!input.ok()) return input.status();
  const auto output = TheOnlyFloat(found->second.outputs(), "output");
  if (!output.ok()) return output.status();
  loaded->input = input->name();
  loaded->input_shape = tensorflow::PartialTensorShape(input->tensor_shape());
  loaded->output = output->name();
  return Model(std::move(loaded));
}

absl::StatusOr<NestedArray> Model::Run(const NestedArray& input) const {
  const tensorflow::TensorShape shape(input.shape);
  if (!loaded_->input_shape.IsCompatibleWith(shape)) {
    return absl::InvalidArgumentError(absl::StrCat("the input must have the shape ", input_shape(),
                                                   ", but has ", shape.DebugString()));
  }
  tensorflow::Tensor tensor(tensorflow::DT_FLOAT, shape);
  std::copy(input.values.begin(), input.values.end(), tensor.flat<float>().data());
  std::vector<tensorflow::Tensor> outputs;
  const absl::Status status = loaded_->bundle.GetSession()->Run({{loaded_->input, tensor}},
                                                                {loaded_->output}, {}, &outputs);
  if (!status.ok()) return Explained(status);
  const auto sizes = outputs[0].shape().dim_sizes();
  const auto values = outputs[0].flat<float>();
  return NestedArray{{sizes.begin(), sizes.end()}, {values.data(), values.data() + values.size()}};
}

absl::Status Model::Probe(const std::vector<int64_t>& shape) const {
  tensorflow::PartialTensorShape probe = loaded_->input_shape;
  if (!shape.empty()) {
    probe = tensorflow::PartialTensorShape(shape);
  } else if (probe.dims() > 0 && probe.dim_size(0) < 0) {
    probe.set_dim(0, 1);
  }
  tensorflow::TensorShape full;
  if (!probe.AsTensorShape(&full)) {
    return absl::InvalidArgumentError(absl::StrCat("the model takes inputs of the shape ",
                                                   input_shape(),
                                                   ": pass the one to try with --probe-shape"));
  }
  const auto sizes = full.dim_sizes();
  const std::vector<float> zeros(full.num_elements());
  return Run({{sizes.begin(), sizes.end()}, zeros}).status();
}
