#include "kernels/cpu/standardize_weights.h"

#include "native/bindings.h"
#include "native/numpy_util.h"

namespace tfgn {
namespace {

// What both directions are told besides tensors.
struct Attributes {
  std::vector<int64_t> axis;
  double epsilon;
  std::string epsilon_mode;
  int64_t ddof;
  double scale;
};

StandardizeWeightsCall CallOf(const Shape& w, const Shape& gain, const Attributes& attributes,
                              const std::string& type, const std::string& out_type) {
  StandardizeWeightsCall call;
  call.w = w;
  call.gain = gain;
  call.axis = attributes.axis.data();
  call.num_axes = static_cast<int>(attributes.axis.size());
  call.epsilon = attributes.epsilon;
  call.epsilon_mode = attributes.epsilon_mode;
  call.ddof = attributes.ddof;
  call.scale = attributes.scale;
  call.w_is_double = call.params_are_double = type == "float64";
  call.w_hat_is_double = out_type == "float64";
  return call;
}

// f(T(), Tout()). REQUIRES: a validated call, so that both are double or neither is.
template <typename F>
void WithTypes(const std::string& type, const std::string& out_type, F&& f) {
  WithType(type, [&](auto element) {
    WithType(out_type, [&](auto out_element) {
      constexpr bool kDouble = std::is_same_v<decltype(element), double>;
      if constexpr (kDouble == std::is_same_v<decltype(out_element), double>) {
        f(element, out_element);
      }
    });
  });
}

py::tuple Forward(const py::array& w, const Array& gain, const std::vector<int64_t>& axis,
                  double epsilon, const std::string& epsilon_mode, int64_t ddof, double scale,
                  const py::object& dtype, const Threads& threads, const Array& out) {
  const std::string type = TypeName(w);
  const py::dtype out_dtype = dtype.is_none() ? w.dtype() : py::dtype::from_args(dtype);
  const std::string out_type = py::str(out_dtype.attr("name"));
  CheckArray("w", w, type);
  CheckArray("gain", gain, py::str(ParamType(type).attr("name")));
  const Attributes attributes = {axis, epsilon, epsilon_mode, ddof, scale};
  const Shape w_shape(w), gain_shape(gain);
  StandardizeWeightsShape shape;
  Check(
      ValidateStandardizeWeights(CallOf(w_shape, gain_shape, attributes, type, out_type), &shape));

  py::array w_hat = ResultArray("out", out, out_dtype, "w", w);
  py::array mean = NewArray(ParamType(type), {shape.outputs});
  py::array rstd = NewArray(ParamType(type), {shape.outputs});
  WithTypes(type, out_type, [&](auto element, auto out_element) {
    using T = decltype(element);
    using Tout = decltype(out_element);
    using U = ParamOf<T>;
    ForwardTensors<T, Tout> tensors;
    tensors.x = Data<T>(w);
    tensors.gamma = Data<U>(gain);
    tensors.y = Out<Tout>(w_hat);
    tensors.mean = Out<U>(mean);
    tensors.rstd = Out<U>(rstd);
    RunPlanned(shape, tensors, threads);
  });
  return py::make_tuple(w_hat, mean, rstd);
}

py::tuple Backward(const py::array& dw_hat, const py::array& w, const Array& gain,
                   const py::array& mean, const py::array& rstd, const std::vector<int64_t>& axis,
                   double epsilon, const std::string& epsilon_mode, int64_t ddof, double scale,
                   const Threads& threads, const Array& out) {
  const std::string type = TypeName(w), out_type = TypeName(dw_hat);
  const py::dtype param_dtype = ParamType(type);
  const std::string param_type = py::str(param_dtype.attr("name"));
  CheckArray("dw_hat", dw_hat, out_type);
  CheckArray("w", w, type);
  CheckArray("gain", gain, param_type);
  CheckArray("mean", mean, param_type);
  CheckArray("rstd", rstd, param_type);
  const Attributes attributes = {axis, epsilon, epsilon_mode, ddof, scale};
  const Shape w_shape(w), gain_shape(gain), dw_hat_shape(dw_hat), mean_shape(mean),
      rstd_shape(rstd);
  StandardizeWeightsCall call = CallOf(w_shape, gain_shape, attributes, type, out_type);
  call.is_gradient = true;
  call.dw_hat = dw_hat_shape;
  call.mean = mean_shape;
  call.rstd = rstd_shape;
  StandardizeWeightsShape shape;
  Check(ValidateStandardizeWeights(call, &shape));

  py::array dw = ResultArray("out", out, w.dtype(), "w", w);
  py::array dgain = NewArray(param_dtype, {shape.has_gain ? shape.outputs : 0});
  WithTypes(type, out_type, [&](auto element, auto out_element) {
    using T = decltype(element);
    using Tout = decltype(out_element);
    using U = ParamOf<T>;
    BackwardTensors<T, Tout> tensors;
    tensors.dy = Data<Tout>(dw_hat);
    tensors.x = Data<T>(w);
    tensors.gamma = Data<U>(gain);
    tensors.mean = Data<U>(mean);
    tensors.rstd = Data<U>(rstd);
    tensors.dx = Out<T>(dw);
    tensors.dgamma = Out<U>(dgain);
    RunPlanned(shape, tensors, threads);
  });
  return py::make_tuple(dw, dgain);
}

}  // namespace

void BindStandardizeWeights(py::module_& m) {
  m.def("standardize_weights_forward", Forward,
        "(w_hat, mean, rstd) of kernels/standardize_weights.h.", py::arg("w"),
        py::arg("gain") = py::none(), py::kw_only(), py::arg("axis") = std::vector<int64_t>{-1},
        py::arg("epsilon") = 1e-10, py::arg("epsilon_mode") = "add_to_variance",
        py::arg("ddof") = 0, py::arg("scale") = 1.0, py::arg("dtype") = py::none(),
        py::arg("threads") = 1, py::arg("out") = py::none());
  m.def("standardize_weights_backward", Backward, "(dw, dgain) of kernels/standardize_weights.h.",
        py::arg("dw_hat"), py::arg("w"), py::arg("gain"), py::arg("mean"), py::arg("rstd"),
        py::kw_only(), py::arg("axis") = std::vector<int64_t>{-1}, py::arg("epsilon") = 1e-10,
        py::arg("epsilon_mode") = "add_to_variance", py::arg("ddof") = 0, py::arg("scale") = 1.0,
        py::arg("threads") = 1, py::arg("out") = py::none());
}

}  // namespace tfgn
