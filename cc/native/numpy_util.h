// NumPy arrays as the kernels' arguments.
#ifndef TFGN_NATIVE_NUMPY_UTIL_H_
#define TFGN_NATIVE_NUMPY_UTIL_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels/dims.h"
#include "kernels/dtypes.h"
#include "kernels/parallel.h"

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

template <typename T>
T* Out(py::array& a) {
  return static_cast<T*>(a.mutable_data());
}

// `threads` threads for one call.
class Threads {
 public:
  explicit Threads(int threads) : threads_(threads) {
    if (threads < 1) Check("threads must be at least 1, but is " + std::to_string(threads));
  }
  operator ParallelFor() {
    return threads_ == 1 ? ParallelFor() : ParallelFor(Run, this, threads_);
  }

 private:
  static void Run(void* self, int64_t count, ParallelFor::Task task, void* arg) {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
      for (int64_t i = next++; i < count; i = next++) task(arg, i);
    };
    std::vector<std::thread> threads;
    for (int i = 1; i < static_cast<Threads*>(self)->threads_; ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
  }

  int threads_;
};

class Workspace {
 public:
  explicit Workspace(int64_t bytes)
      : data_(::operator new(std::max<int64_t>(1, bytes), std::align_val_t(64))) {}
  ~Workspace() { ::operator delete(data_, std::align_val_t(64)); }
  Workspace(const Workspace&) = delete;
  void* get() const { return data_; }

 private:
  void* data_;
};

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
