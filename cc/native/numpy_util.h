// NumPy arrays as the kernels' arguments.
#ifndef TFGN_NATIVE_NUMPY_UTIL_H_
#define TFGN_NATIVE_NUMPY_UTIL_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "kernels/cpu/group_norm.h"
#include "kernels/cpu/standardize_weights.h"
#include "kernels/dims.h"
#include "kernels/dtypes.h"
#include "kernels/parallel.h"
#include "native/thread_pool.h"

namespace tfgn {

namespace py = pybind11;
using Array = std::optional<py::array>;

inline void Check(const std::string& error) {
  if (!error.empty()) throw std::invalid_argument(error);
}

inline std::string TypeName(const py::array& a) { return py::str(a.dtype().attr("name")); }

// Keeps the sizes that a Dims points to.
class Shape {
 public:
  explicit Shape(const Array& a) : size_(1, 0) {
    if (a) size_.assign(a->shape(), a->shape() + a->ndim());
  }
  operator Dims() const { return {size_.data(), static_cast<int>(size_.size())}; }

 private:
  std::vector<int64_t> size_;  // an absent array is [0]
};

template <typename T>
const T* Data(const Array& a) {
  return a && a->size() > 0 ? static_cast<const T*>(a->data()) : nullptr;
}

inline void CheckArray(const char* name, const Array& a, const std::string& dtype) {
  if (!a) return;
  if (TypeName(*a) != dtype) {
    Check(std::string(name) + " must be of type " + dtype + ", but is of type " + TypeName(*a));
  }
  if ((a->flags() & py::array::c_style) == 0) Check(std::string(name) + " must be C-contiguous");
}

inline py::array NewArray(const py::dtype& dtype, const std::vector<py::ssize_t>& shape) {
  return py::array(dtype, shape);
}

inline std::vector<py::ssize_t> ShapeOf(const py::array& a) {
  return {a.shape(), a.shape() + a.ndim()};
}

// `out`, where a caller brings the memory of a result, or a new array.
inline py::array ResultArray(const char* name, const Array& out, const py::dtype& dtype,
                             const char* like_name, const py::array& like) {
  const std::vector<py::ssize_t> shape = ShapeOf(like);
  if (!out) return NewArray(dtype, shape);
  CheckArray(name, out, py::str(dtype.attr("name")));
  if (ShapeOf(*out) != shape) Check(std::string(name) + " must have the shape of " + like_name);
  return *out;
}

template <typename T>
T* Out(py::array& a) {
  return static_cast<T*>(a.mutable_data());
}

// A number of threads for one call, or a pool that stays.
using Threads = std::variant<int, ThreadPool*>;

class ThreadsFor {
 public:
  explicit ThreadsFor(const Threads& threads) {
    if (const int* count = std::get_if<int>(&threads)) {
      pool_ = &own_.emplace(*count);
    } else {
      pool_ = std::get<ThreadPool*>(threads);
    }
  }
  operator ParallelFor() const { return *pool_; }

 private:
  std::optional<ThreadPool> own_;
  ThreadPool* pool_;
};

// Plans a pass and runs it, without the GIL.
template <typename Shape, typename Tensors>
void RunPlanned(const Shape& shape, const Tensors& tensors, const Threads& threads) {
  py::gil_scoped_release release;
  const ThreadsFor pool(threads);
  const ParallelFor parallel = pool;
  const auto pass = Plan<Tensors>(shape, parallel);
  constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(char* memory) const { ::operator delete(memory, kAlignment); }
  };
  const std::unique_ptr<char, Free> workspace(
      static_cast<char*>(::operator new(std::max<int64_t>(1, pass.workspace_bytes()), kAlignment)));
  Check(pass.Run(tensors, workspace.get(), parallel));
}

// f(T()) for the element type of this name.
template <typename F>
auto WithType(const std::string& name, F&& f) {
  if (name == "float16") return f(float16());
  if (name == "bfloat16") return f(bfloat16());
  if (name == "float32") return f(float());
  if (name == "float64") return f(double());
  throw std::invalid_argument("the type must be float16, bfloat16, float32 or float64, but is " +
                              name);
}

inline py::dtype ParamType(const std::string& type) {
  return py::dtype(type == "float64" ? "float64" : "float32");
}

}  // namespace tfgn

#endif  // TFGN_NATIVE_NUMPY_UTIL_H_
