#ifndef TFGN_NATIVE_BINDINGS_H_
#define TFGN_NATIVE_BINDINGS_H_

#include <pybind11/pybind11.h>

namespace tfgn {

void BindGroupNorm(pybind11::module_& m);
void BindMemory(pybind11::module_& m);
void BindStandardizeWeights(pybind11::module_& m);

}  // namespace tfgn

#endif  // TFGN_NATIVE_BINDINGS_H_
