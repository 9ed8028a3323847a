#include "kernels/cpu/group_norm.h"

#include "native/bindings.h"
#include "native/numpy_util.h"

namespace tfgn {
namespace {

GroupNormCall CallOf(const Shape& x, const Shape& gamma, const Shape& beta, const Shape& side,
                     bool has_side, const std::string& type, int64_t groups, int64_t axis,
                     const std::string& activation) {
  GroupNormCall call;
  call.x = x;
  call.gamma = gamma;
  call.beta = beta;
  call.side_input = side;
  call.num_side_inputs = has_side ? 1 : 0;
  call.groups = groups;
  call.axis = axis;
  call.activation = activation;
  call.x_is_double = call.params_are_double = type == "float64";
  return call;
}

py::tuple Forward(const py::array& x, const Array& gamma, const Array& beta,
                  const Array& side_input, int64_t groups, int64_t axis, double epsilon,
                  const std::string& activation, const Threads& threads, const Array& out) {
  const std::string type = TypeName(x);
  const std::string param_type = py::str(ParamType(type).attr("name"));
  CheckArray("x", x, type);
  CheckArray("gamma", gamma, param_type);
  CheckArray("beta", beta, param_type);
  CheckArray("side_input", side_input, type);
  const Shape x_shape(x), gamma_shape(gamma), beta_shape(beta), side_shape(side_input);
  GroupNormCall call = CallOf(x_shape, gamma_shape, beta_shape, side_shape, side_input.has_value(),
                              type, groups, axis, activation);
  call.epsilon = epsilon;
  GroupNormShape shape;
  Check(ValidateGroupNorm(call, &shape));

  py::array y = ResultArray("out", out, x.dtype(), "x", x);
  py::array mean = NewArray(ParamType(type), {shape.n, shape.groups});
  py::array rstd = NewArray(ParamType(type), {shape.n, shape.groups});
  py::array rest = NewArray(ParamType(type), {shape.n, 2, shape.groups});
  WithType(type, [&](auto element) {
    using T = decltype(element);
    using U = ParamOf<T>;
    ForwardTensors<T> tensors;
    tensors.x = Data<T>(x);
    tensors.gamma = Data<U>(gamma);
    tensors.beta = Data<U>(beta);
    tensors.side_input = Data<T>(side_input);
    tensors.y = Out<T>(y);
    tensors.mean = Out<U>(mean);
    tensors.rstd = Out<U>(rstd);
    tensors.rest = Out<U>(rest);
    RunPlanned(shape, tensors, threads);
  });
  return py::make_tuple(y, mean, rstd, rest);
}

py::tuple Backward(const py::array& dy, const py::array& x, const Array& gamma, const Array& beta,
                   const py::array& mean, const py::array& rstd, const Array& side_input,
                   const Array& rest, int64_t groups, int64_t axis, const std::string& activation,
                   bool with_y, const Threads& threads, const Array& out, const Array& side_out,
                   const Array& y_out) {
  const std::string type = TypeName(x);
  const py::dtype param_dtype = ParamType(type);
  const std::string param_type = py::str(param_dtype.attr("name"));
  CheckArray("dy", dy, type);
  CheckArray("x", x, type);
  CheckArray("gamma", gamma, param_type);
  CheckArray("beta", beta, param_type);
  CheckArray("mean", mean, param_type);
  CheckArray("rstd", rstd, param_type);
  CheckArray("rest", rest, param_type);
  CheckArray("side_input", side_input, type);
  const Shape x_shape(x), gamma_shape(gamma), beta_shape(beta), side_shape(side_input);
  const Shape dy_shape(dy), mean_shape(mean), rstd_shape(rstd), rest_shape(rest);
  GroupNormCall call = CallOf(x_shape, gamma_shape, beta_shape, side_shape, side_input.has_value(),
                              type, groups, axis, activation);
  call.is_gradient = true;
  call.dy = dy_shape;
  call.mean = mean_shape;
  call.rstd = rstd_shape;
  call.num_rests = rest ? 1 : 0;
  call.rest = rest_shape;
  call.with_y = with_y ? 1 : 0;
  GroupNormShape shape;
  Check(ValidateGroupNorm(call, &shape));

  py::array dx = ResultArray("out", out, x.dtype(), "x", x);
  py::array dgamma = gamma ? NewArray(param_dtype, ShapeOf(*gamma)) : NewArray(param_dtype, {0});
  py::array dbeta = beta ? NewArray(param_dtype, ShapeOf(*beta)) : NewArray(param_dtype, {0});
  py::object dside = py::none(), y = py::none();
  if (side_input) dside = ResultArray("side_out", side_out, x.dtype(), "x", x);
  if (with_y) y = ResultArray("y_out", y_out, x.dtype(), "x", x);
  WithType(type, [&](auto element) {
    using T = decltype(element);
    using U = ParamOf<T>;
    py::array dside_array = side_input ? py::array(dside) : py::array();
    py::array y_array = with_y ? py::array(y) : py::array();
    BackwardTensors<T> tensors;
    tensors.dy = Data<T>(dy);
    tensors.x = Data<T>(x);
    tensors.gamma = Data<U>(gamma);
    tensors.beta = Data<U>(beta);
    tensors.mean = Data<U>(mean);
    tensors.rstd = Data<U>(rstd);
    tensors.rest = Data<U>(rest);
    tensors.side_input = Data<T>(side_input);
    tensors.dx = Out<T>(dx);
    tensors.dgamma = Out<U>(dgamma);
    tensors.dbeta = Out<U>(dbeta);
    if (side_input) tensors.dside = Out<T>(dside_array);
    if (with_y) tensors.y = Out<T>(y_array);
    RunPlanned(shape, tensors, threads);
  });
  return py::make_tuple(dx, dgamma, dbeta, dside, y);
}

}  // namespace

void BindGroupNorm(py::module_& m) {
  m.def("group_norm_forward", Forward, "(y, mean, rstd, rest) of kernels/group_norm.h.",
        py::arg("x"), py::arg("gamma") = py::none(), py::arg("beta") = py::none(),
        py::arg("side_input") = py::none(), py::kw_only(), py::arg("groups"), py::arg("axis") = -1,
        py::arg("epsilon") = 1e-3, py::arg("activation") = "linear", py::arg("threads") = 1,
        py::arg("out") = py::none());
  m.def("group_norm_backward", Backward, "(dx, dgamma, dbeta, dside, y) of kernels/group_norm.h.",
        py::arg("dy"), py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"),
        py::arg("rstd"), py::arg("side_input") = py::none(), py::arg("rest") = py::none(),
        py::kw_only(), py::arg("groups"), py::arg("axis") = -1, py::arg("activation") = "linear",
        py::arg("with_y") = false, py::arg("threads") = 1, py::arg("out") = py::none(),
        py::arg("side_out") = py::none(), py::arg("y_out") = py::none());
}

}  // namespace tfgn
