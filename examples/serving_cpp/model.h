// Loads and runs a SavedModel without Python. Only model.cc includes TensorFlow.

#ifndef SERVING_CPP_MODEL_H_
#define SERVING_CPP_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nested_array.h"

// Loads a library of custom ops, such as `_tfgn_ops.so`. Call it once per library and process,
// before loading models that need it.
absl::Status LoadOpLibrary(const std::string& path);

// One signature of a SavedModel, with one float32 input and one float32 output.
class Model {
 public:
  // Loads the SavedModel in the folder `path`.
  static absl::StatusOr<Model> Load(const std::string& path, const std::string& signature);

  Model(Model&&);
  Model& operator=(Model&&);
  ~Model();

  // The shape of the input, such as [?,8,8,3].
  std::string input_shape() const;

  // Returns InvalidArgument if the signature does not accept the shape of the input. Thread-safe.
  absl::StatusOr<NestedArray> Run(const NestedArray& input) const;

  // Runs a batch of zeros, because only a run detects missing ops. `shape` may be empty if the
  // number of samples is the only unknown size of the signature.
  absl::Status Probe(const std::vector<int64_t>& shape) const;

 private:
  struct Loaded;
  explicit Model(std::unique_ptr<Loaded> loaded);

  std::unique_ptr<Loaded> loaded_;
};

#endif  // SERVING_CPP_MODEL_H_
