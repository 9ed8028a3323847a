// A SavedModel, loaded and run without Python. TensorFlow stays behind this file.

#ifndef SERVING_CPP_MODEL_H_
#define SERVING_CPP_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nested_array.h"

// Loads a library of custom ops, such as `_tfgn_ops.so`: once per process and library, before the
// models that need it.
absl::Status LoadOpLibrary(const std::string& path);

// One signature of a SavedModel, of one float32 input and one float32 output.
class Model {
 public:
  // Loads the SavedModel in the folder `path`.
  static absl::StatusOr<Model> Load(const std::string& path, const std::string& signature);

  Model(Model&&);
  Model& operator=(Model&&);
  ~Model();

  // The shape of the input, such as [?,8,8,3].
  std::string input_shape() const;

  // InvalidArgument where the signature takes no input of that shape. May be called from several
  // threads at once.
  absl::StatusOr<NestedArray> Run(const NestedArray& input) const;

  // Runs a batch of zeros: only a run finds out whether all ops of the model are there. `shape` may
  // be empty where the signature leaves open the number of samples alone.
  absl::Status Probe(const std::vector<int64_t>& shape) const;

 private:
  struct Loaded;
  explicit Model(std::unique_ptr<Loaded> loaded);

  std::unique_ptr<Loaded> loaded_;
};

#endif  // SERVING_CPP_MODEL_H_
