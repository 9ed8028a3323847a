// Times a SavedModel without Python:
//
//   run_saved_model MODEL LIBRARY THREADS
//
// MODEL is its folder, LIBRARY the library of its custom ops. It must have the signature
// serving_default, whose inputs and outputs are float32 and of known shapes.
//
// A request is a line on standard input, `time FOLDER` or `write FOLDER`. The folder has a file of
// float32 numbers for each input, named like it, which is read at its first request. The answer is
// a line on standard output: the nanoseconds of one call. `write` then writes a file for each
// output. An answer that starts with "error: " is the last one. The program says "ready" when it is
// ready, and ends when its input ends.

#include <chrono>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/public/session_options.h"

namespace {

constexpr char kSignature[] = "serving_default";

absl::Status LoadOpLibrary(const std::string& path) {
  TF_Status* status = TF_NewStatus();
  TF_LoadLibrary(path.c_str(), status);
  absl::Status result;
  if (TF_GetCode(status) != TF_OK) result = absl::NotFoundError(TF_Message(status));
  TF_DeleteStatus(status);
  return result;
}

absl::StatusOr<tensorflow::Tensor> ReadTensor(const std::string& path,
                                              const tensorflow::TensorShapeProto& shape) {
  tensorflow::TensorShape sizes;
  const tensorflow::PartialTensorShape known(shape);
  if (!known.AsTensorShape(&sizes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the shape of an input must be known, but is ", known.DebugString()));
  }
  tensorflow::Tensor tensor(tensorflow::DT_FLOAT, sizes);
  std::ifstream file(path, std::ios::binary);
  file.read(static_cast<char*>(tensor.data()), tensor.TotalBytes());
  if (!file || file.peek() != std::ifstream::traits_type::eof()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " must have ", tensor.TotalBytes(), " bytes"));
  }
  return tensor;
}

class Model {
 public:
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& path, int threads) {
    auto model = std::make_unique<Model>();
    tensorflow::SessionOptions options;
    options.config.set_intra_op_parallelism_threads(threads);
    const absl::Status status = tensorflow::LoadSavedModel(options, tensorflow::RunOptions(), path,
                                                           {"serve"}, &model->bundle_);
    if (!status.ok()) return status;
    const auto& signatures = model->bundle_.GetSignatures();
    const auto found = signatures.find(kSignature);
    if (found == signatures.end()) {
      return absl::NotFoundError(absl::StrCat("the model has no signature ", kSignature));
    }
    for (const auto& [name, info] : found->second.inputs()) {
      if (info.dtype() != tensorflow::DT_FLOAT) {
        return absl::UnimplementedError(absl::StrCat("the input ", name, " is not float32"));
      }
      model->inputs_[name] = info;
    }
    for (const auto& [name, info] : found->second.outputs()) {
      if (info.dtype() != tensorflow::DT_FLOAT) {
        return absl::UnimplementedError(absl::StrCat("the output ", name, " is not float32"));
      }
      model->output_names_.push_back(name);
      model->output_tensors_.push_back(info.name());
    }
    return model;
  }

  // Returns the nanoseconds of one call.
  absl::StatusOr<int64_t> Time(const std::string& folder) {
    const auto inputs = Inputs(folder);
    if (!inputs.ok()) return inputs.status();
    outputs_.clear();
    const auto start = std::chrono::steady_clock::now();
    const absl::Status status = bundle_.GetSession()->Run(**inputs, output_tensors_, {}, &outputs_);
    const auto stop = std::chrono::steady_clock::now();
    if (!status.ok()) return status;
    return std::chrono::duration_cast<std::chrono::nanoseconds>(stop - start).count();
  }

  // Writes the outputs of the last call.
  absl::Status Write(const std::string& folder) const {
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const std::string path = absl::StrCat(folder, "/", output_names_[i]);
      std::ofstream file(path, std::ios::binary);
      file.write(static_cast<const char*>(outputs_[i].data()), outputs_[i].TotalBytes());
      if (!file.flush()) return absl::DataLossError(absl::StrCat(path, " cannot be written"));
    }
    return absl::OkStatus();
  }

 private:
  using NamedTensors = std::vector<std::pair<std::string, tensorflow::Tensor>>;

  absl::StatusOr<const NamedTensors*> Inputs(const std::string& folder) {
    if (const auto found = read_.find(folder); found != read_.end()) return &found->second;
    NamedTensors tensors;
    for (const auto& [name, info] : inputs_) {
      auto tensor = ReadTensor(absl::StrCat(folder, "/", name), info.tensor_shape());
      if (!tensor.ok()) return tensor.status();
      tensors.emplace_back(info.name(), *std::move(tensor));
    }
    return &read_.emplace(folder, std::move(tensors)).first->second;
  }

  tensorflow::SavedModelBundleLite bundle_;
  std::map<std::string, tensorflow::TensorInfo> inputs_;
  std::vector<std::string> output_names_;
  std::vector<std::string> output_tensors_;
  std::vector<tensorflow::Tensor> outputs_;
  std::map<std::string, NamedTensors> read_;  // By folder.
};

absl::StatusOr<int64_t> Answer(Model& model, const std::string& request) {
  const size_t space = request.find(' ');
  const std::string word = request.substr(0, space);
  if (space == request.npos || (word != "time" && word != "write")) {
    return absl::InvalidArgumentError(absl::StrCat("unknown request: ", request));
  }
  const std::string folder = request.substr(space + 1);
  auto nanoseconds = model.Time(folder);
  if (nanoseconds.ok() && word == "write") {
    const absl::Status status = model.Write(folder);
    if (!status.ok()) return status;
  }
  return nanoseconds;
}

absl::Status Serve(const std::vector<std::string>& arguments) {
  int threads;
  if (arguments.size() != 3 || !absl::SimpleAtoi(arguments[2], &threads)) {
    return absl::InvalidArgumentError("usage: run_saved_model MODEL LIBRARY THREADS");
  }
  const absl::Status status = LoadOpLibrary(arguments[1]);
  if (!status.ok()) return status;
  const auto model = Model::Load(arguments[0], threads);
  if (!model.ok()) return model.status();
  std::cout << "ready" << std::endl;
  for (std::string request; std::getline(std::cin, request);) {
    const auto nanoseconds = Answer(**model, request);
    if (!nanoseconds.ok()) return nanoseconds.status();
    std::cout << *nanoseconds << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const absl::Status status = Serve({argv + 1, argv + argc});
  if (status.ok()) return 0;
  std::string message(status.message());
  std::cout << "error: " << message.substr(0, message.find('\n')) << std::endl;
  return 1;
}
