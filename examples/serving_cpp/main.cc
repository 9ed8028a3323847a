// Serves a SavedModel over standard input and output; see kUsage.

#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "model.h"
#include "nested_array.h"

namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

constexpr char kUsage[] =
    R"(usage: serving_cpp --model DIR [--library FILE] [--signature NAME] [--probe-shape SIZES]

Serves a SavedModel without Python. A request is a line on standard input: a batch as a nested JSON
list of numbers. Its answer is a line on standard output: a list, or {"error": "one sentence"}. After
an error the next request is served. The program ends when its input ends.

At start it runs one batch of zeros, then prints "ready" to standard error. If that fails, it prints
one sentence and exits with code 1.

  --model DIR          folder of the SavedModel
  --library FILE       library of the model's custom ops
  --signature NAME     function of the model (default: serving_default)
  --probe-shape SIZES  shape of the batch of zeros, such as 1x224x224x3; needed if the number of
                       samples is not the only unknown size

The environment variable TF_CPP_MIN_LOG_LEVEL=3 silences most of TensorFlow's messages.
)";

struct Options {
  bool help = false;
  std::string model;
  std::string library;
  std::string signature = "serving_default";
  std::vector<int64_t> probe_shape;
};

absl::Status ParseSizes(const std::string& text, std::vector<int64_t>& sizes) {
  for (const absl::string_view word : absl::StrSplit(text, 'x')) {
    int64_t size;
    if (!absl::SimpleAtoi(word, &size) || size < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("--probe-shape must be sizes such as 1x224x224x3, but is ", text));
    }
    sizes.push_back(size);
  }
  return absl::OkStatus();
}

absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    if (name == "--help" || name == "-h") {
      options.help = true;
      return options;
    }
    if (name != "--model" && name != "--library" && name != "--signature" &&
        name != "--probe-shape") {
      return absl::InvalidArgumentError(absl::StrCat("unknown argument ", name, " (see --help)"));
    }
    if (++i == arguments.size()) {
      return absl::InvalidArgumentError(absl::StrCat(name, " needs a value (see --help)"));
    }
    if (name == "--model") options.model = arguments[i];
    if (name == "--library") options.library = arguments[i];
    if (name == "--signature") options.signature = arguments[i];
    if (name == "--probe-shape") {
      const absl::Status status = ParseSizes(arguments[i], options.probe_shape);
      if (!status.ok()) return status;
    }
  }
  if (options.model.empty()) return absl::InvalidArgumentError("--model is missing (see --help)");
  return options;
}

absl::StatusOr<Model> Start(const Options& options) {
  if (!options.library.empty()) {
    const absl::Status status = LoadOpLibrary(options.library);
    if (!status.ok()) return status;
  }
  absl::StatusOr<Model> model = Model::Load(options.model, options.signature);
  if (!model.ok()) return model;
  const absl::Status status = model->Probe(options.probe_shape);
  if (!status.ok()) return status;
  return model;
}

absl::StatusOr<std::string> Answer(const Model& model, const std::string& request) {
  const absl::StatusOr<NestedArray> input = ParseNestedArray(request);
  if (!input.ok()) return input.status();
  const absl::StatusOr<NestedArray> output = model.Run(*input);
  if (!output.ok()) return output.status();
  return FormatNestedArray(*output);
}

std::string ErrorAsJson(const absl::Status& status) {
  std::string json = R"({"error": ")";
  for (const char c : status.message()) {
    if (static_cast<unsigned char>(c) < ' ') {
      absl::StrAppendFormat(&json, "\\u%04x", c);
    } else {
      if (c == '"' || c == '\\') json += '\\';
      json += c;
    }
  }
  return json + "\"}";
}

int Fail(const absl::Status& status, int code) {
  std::cerr << "serving_cpp: " << status.message() << std::endl;
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  const absl::StatusOr<Options> options = ParseOptions({argv + 1, argv + argc});
  if (!options.ok()) return Fail(options.status(), kExitUsage);
  if (options->help) {
    std::cout << kUsage;
    return 0;
  }
  const absl::StatusOr<Model> model = Start(*options);
  if (!model.ok()) return Fail(model.status(), kExitFailure);
  std::cerr << "serving_cpp: ready for inputs of shape " << model->input_shape() << std::endl;
  for (std::string request; std::getline(std::cin, request);) {
    const absl::StatusOr<std::string> answer = Answer(*model, request);
    std::cout << (answer.ok() ? *answer : ErrorAsJson(answer.status())) << std::endl;
    if (!std::cout) {
      return Fail(absl::DataLossError("an answer cannot be written"), kExitFailure);
    }
  }
  return 0;
}
