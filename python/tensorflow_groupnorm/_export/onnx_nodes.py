"""The nodes that an ONNX file has for the GroupNorm op, written while tf2onnx converts a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import ExportError


class Writer:
    """Writes the GroupNorm ops of a graph with NCHW nodes.

    A normalization in NCHW stands between two transpositions, which tf2onnx' optimizer moves along
    the graph until they cancel with those around a convolution. A residual becomes Add, and SiLU
    becomes Sigmoid and Mul. Parameters per sample, `[batch, channels]`, become Mul and Add behind a
    normalization without parameters: the operators have one scale for all samples.

    Args:
        kind: the node that normalizes, `"GroupNormalization"` or `"InstanceNormalization"`.
        in_double: whether float64 is normalized in float64, by GroupNormalization. Otherwise it is
            normalized in float32.

    Attributes:
        written: a dict from the name of each op that was written to the name and the kind of its
            node.
        errors: why ops could not be written.
    """

    def __init__(self, kind: str, *, in_double: bool) -> None:
        self.written: dict[str, tuple[str, str]] = {}
        self.errors: list[ExportError] = []
        self._kind, self._in_double = kind, in_double

    @property
    def handlers(self) -> dict[str, tuple[Callable[..., None], list[Any]]]:
        """The argument `custom_op_handlers` of tf2onnx."""
        return {"GroupNorm": (self._write, [])}

    def _write(self, graph: Any, node: Any, name: str, _: list[Any]) -> None:
        # tf2onnx logs the error of a handler and goes on.
        try:
            self.written[name] = _Op(graph, node, self._in_double).write(self._kind)
        except ExportError as error:
            self.errors.append(error)


class _Op:
    """A GroupNorm op of a tf2onnx graph, to be replaced."""

    def __init__(self, graph: Any, node: Any, in_double: bool) -> None:
        import onnx

        self._graph, self._name = graph, node.name
        self._x, self._gamma, self._beta, *self._residual = node.input
        self._output, self._dtype = node.output[0], graph.get_dtype(self._x)
        shape = graph.get_shape(self._x)
        if shape is None:
            raise ExportError(f"ONNX needs the rank of the input of {node.name}, which is unknown.")
        if any(graph.find_output_consumers(output) for output in node.output[1:]):
            raise ExportError(
                f"The model uses the mean or rstd of {node.name}, and a normalization in ONNX "
                "returns only the normalized tensor."
            )
        self._output_shape = graph.get_shape(self._output)
        self._epsilon, self._groups = (node.get_attr_value(k) for k in ("epsilon", "groups"))
        activation = node.get_attr_value("activation")
        self._activation = activation.decode() if isinstance(activation, bytes) else activation
        # The op computes half precision in float32.
        types = onnx.TensorProto
        is_double = in_double and self._dtype == types.DOUBLE
        self._computed = types.DOUBLE if is_double else types.FLOAT
        axis = node.get_attr_value("axis") % len(shape)
        self._to_nchw = [0, axis, *(i for i in range(1, len(shape)) if i != axis)]
        # NCHW, -1 for unknown sizes. The operators need an axis behind the channels.
        self._is_flat = len(shape) == 2
        self._shape = [*(shape[i] for i in self._to_nchw), *[1] * self._is_flat]

    def write(self, kind: str) -> tuple[str, str]:
        """Replaces the op; returns the name and the kind of the node that normalizes."""
        import onnx

        channels = self._shape[1]
        if self._computed == onnx.TensorProto.DOUBLE:
            kind = "GroupNormalization"  # Runtimes have InstanceNormalization in float32 only.
        elif channels < 0:
            kind = "InstanceNormalization"  # Its parameters have the size of the groups.
        self._graph.remove_node(self._name)
        x, *residual = map(self._nchw, [self._x, *self._residual])
        parameters = [self._parameter(name) for name in (self._gamma, self._beta)]
        name = f"{self._name}/{kind}"
        if kind == "GroupNormalization":
            y = self._group_normalization(x, parameters, name)
        else:
            y = self._affine(self._instance_normalization(x, name), parameters)
        for tensor in residual:
            y = self._make("Add", [y, tensor])
        if self._activation == "relu":
            y = self._make("Relu", [y])
        elif self._activation == "silu":
            y = self._make("Mul", [y, self._make("Sigmoid", [y])])
        self._restore(y)
        return name, kind

    def _nchw(self, tensor: str) -> str:
        """The tensor in NCHW, in the dtype of the computation."""
        if self._computed != self._dtype:
            cast = self._graph.make_node("Cast", [tensor], attr={"to": self._computed})
            tensor = cast.output[0]
        if self._to_nchw != sorted(self._to_nchw):
            tensor = self._make("Transpose", [tensor], {"perm": self._to_nchw})
        if self._is_flat:
            tensor = self._make("Unsqueeze", [tensor, self._constant([2])])
        return tensor

    def _restore(self, y: str) -> None:
        """Writes the inverse of `_nchw`, and the output of the op."""
        steps: list[tuple[str, list[str], dict[str, Any]]] = []
        if self._is_flat:
            steps.append(("Squeeze", [self._constant([2])], {}))
        if self._to_nchw != sorted(self._to_nchw):
            back = [self._to_nchw.index(i) for i in range(len(self._to_nchw))]
            steps.append(("Transpose", [], {"perm": back}))
        if self._computed != self._dtype:
            steps.append(("Cast", [], {"to": self._dtype}))
        for op, others, attr in steps:
            y = self._graph.make_node(op, [y, *others], attr=attr).output[0]
        # tf2onnx removes it where it can.
        self._graph.make_node(
            "Identity",
            [y],
            outputs=[self._output],
            shapes=[self._output_shape],
            dtypes=[self._dtype],
        )

    def _parameter(self, name: str) -> str | None:
        if self._graph.get_shape(name) == [0]:  # The op takes it as an absent one.
            return None
        if self._graph.get_dtype(name) == self._computed:
            return name
        cast = self._graph.make_node("Cast", [name], attr={"to": self._computed})
        return str(cast.output[0])

    def _group_normalization(self, x: str, parameters: list[str | None], name: str) -> str:
        import onnx

        channels = self._shape[1]
        is_plain = all(p is None or self._graph.get_rank(p) == 1 for p in parameters)
        inputs = [
            given if given is not None and is_plain else self._filled(channels, value)
            for given, value in zip(parameters, (1, 0), strict=True)
        ]
        attr = {"epsilon": self._epsilon, "num_groups": self._groups}
        if self._computed == onnx.TensorProto.DOUBLE:
            attr["stash_type"] = self._computed  # float32 is the default.
        y = self._make("GroupNormalization", [x, *inputs], attr, name=name)
        return y if is_plain else self._affine(y, parameters)

    def _instance_normalization(self, x: str, name: str) -> str:
        grouped = [self._shape[0], self._groups, -1]
        y = self._make("Reshape", [x, self._constant([0, self._groups, -1])], shape=grouped)
        inputs = [y, self._filled(self._groups, 1), self._filled(self._groups, 0)]
        attr = {"epsilon": self._epsilon}
        y = self._make("InstanceNormalization", inputs, attr, shape=grouped, name=name)
        # 0 copies the size of the batch.
        sizes = [0, *self._shape[1:]]
        if sizes.count(-1) > 1:
            shape = self._graph.make_node("Shape", [x]).output[0]
        else:
            shape = self._constant(sizes)
        return self._make("Reshape", [y, shape])

    def _affine(self, y: str, parameters: list[str | None]) -> str:
        """Writes y gamma + beta, with parameters per channel or per sample and channel."""
        for op, name in zip(("Mul", "Add"), parameters, strict=True):
            if name is not None:
                y = self._make(op, [y, self._spread(name)])
        return y

    def _spread(self, name: str) -> str:
        """A parameter with an axis of size 1 for each axis behind the channels."""
        axes = len(self._shape) - 2
        node = self._graph.get_node_by_output(name)
        if node is not None and node.is_const():
            value = node.get_tensor_value(as_list=False)
            return self._constant(value.reshape([*value.shape, *[1] * axes]))
        rank = self._graph.get_rank(name)
        if rank is None:
            raise ExportError(f"ONNX needs the rank of the parameters of {self._name}.")
        behind = self._constant(range(rank, rank + axes))
        shape = [*self._graph.get_shape(name), *[1] * axes]
        return self._make("Unsqueeze", [name, behind], shape=shape)

    def _filled(self, size: int, value: float) -> str:
        import onnx

        dtype = onnx.helper.tensor_dtype_to_np_dtype(self._computed)
        return self._constant(np.full([size], value, dtype))

    def _constant(self, values: Sequence[int] | np.ndarray) -> str:
        from tf2onnx import utils

        if not isinstance(values, np.ndarray):
            values = np.array(values, np.int64)
        return self._graph.make_const(utils.make_name(f"{self._name}/constant"), values).output[0]

    def _make(
        self,
        op: str,
        inputs: list[str],
        attr: dict[str, Any] | None = None,
        *,
        shape: list[int] | None = None,
        name: str | None = None,
    ) -> str:
        """Writes a node of the computation, with the shape of the tensor in NCHW by default."""
        node = self._graph.make_node(
            op,
            inputs,
            attr=attr,
            name=name,
            shapes=[self._shape if shape is None else shape],
            dtypes=[self._computed],
        )
        return str(node.output[0])
