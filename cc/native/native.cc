// The kernels on NumPy arrays, for tests and benchmarks, and what this build is made of. Knows
// nothing of TensorFlow.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "kernels/cpu/target.h"
#include "native/bindings.h"
#include "native/thread_pool.h"

namespace py = pybind11;

namespace {

py::dict BuildInfo() {
  using namespace py::literals;
  return py::dict("version"_a = TFGN_VERSION, "compiler"_a = TFGN_COMPILER,
                  "highway"_a = tfgn::HighwayVersion());
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The kernels of tensorflow-groupnorm on NumPy arrays.";
  m.def("build_info", BuildInfo, "What this build is made of: versions as strings.");
  m.def("cpu_target", tfgn::CpuTarget, "The instruction set that the kernels run on.");
  m.def("cpu_targets", tfgn::CpuTargets, "The instruction sets that they can run on here.");
  m.def(
      "select_cpu_target",
      [](const std::string& name) {
        if (!tfgn::SelectCpuTarget(name)) {
          throw py::value_error("name must be one of cpu_targets(), but is " + name);
        }
      },
      py::arg("name"),
      "Runs the kernels of this module on one of cpu_targets(), or the best (\"\").");
  py::class_<tfgn::ThreadPool>(m, "ThreadPool",
                               "Threads that stay: a kernel called with `threads=ThreadPool(2)` "
                               "starts none of its own.")
      .def(py::init<int>(), py::arg("threads"));
  tfgn::BindMemory(m);
  tfgn::BindGroupNorm(m);
  tfgn::BindStandardizeWeights(m);
}
