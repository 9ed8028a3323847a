"""TensorFlow and Keras: the fused ops, the stock computations they replace, and the floor."""

from __future__ import annotations

import os
import platform

import keras
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tfgn_study.environment import uses_onednn

from ..cases import Calls, Case, Inference, Norm, Step, Weights
from ..export import contenders, files
from . import steps

_CORES = len(os.sched_getaffinity(0))
tf.config.threading.set_intra_op_parallelism_threads(_CORES)

_ACTIVATIONS = {"linear": lambda x: x, "relu": tf.nn.relu, "silu": tf.nn.silu}


def versions() -> dict:
    return {
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "TensorFlow's oneDNN": "on" if uses_onednn() else "off",
        "Keras": keras.__version__,
    }


def load(case: Case, arrays: dict) -> dict:
    return tf.nest.map_structure(tf.constant, arrays)


def to_numpy(case: Norm, outputs) -> list:
    return [output.numpy() for output in tf.nest.flatten(outputs)]


def function(contender: str, case: Case):
    if isinstance(case, Step):
        return steps.training_step(case)
    if isinstance(case, Inference):
        return _saved_model(contender, case)
    if isinstance(case, Calls):
        return _calls(contender, case)
    if isinstance(case, Weights):
        compute = _STANDARDIZATIONS[contender.removesuffix(" jit")]
        names, upstream = ("w",), "dw"
    else:
        compute, names = _norm(contender.removesuffix(" jit"), case)
        upstream = "dy"
    graph = _graph(compute, case.backward, jit=contender.endswith(" jit"))
    if case.backward:
        return lambda a: graph(a[upstream], *(a[name] for name in names))
    return lambda a: graph(*(a[name] for name in names))


def _saved_model(contender: str, case: Inference):
    path = files.path(case.network, case.batch, contenders.CONTENDERS[contender].file)
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["serving_default"]
    # The outputs are read, and the call keeps the variables alive.
    return lambda inputs: [y.numpy() for y in signature(**inputs).values()] and loaded


def _graph(compute, backward: bool, jit: bool):
    @tf.function(jit_compile=jit, autograph=False)
    def forward(*inputs):
        return compute(*inputs)

    @tf.function(jit_compile=jit, autograph=False)
    def forward_and_backward(upstream, *inputs):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            y = compute(*inputs)
        return y, tape.gradient(y, inputs, upstream)

    return forward_and_backward if backward else forward


def _norm(contender: str, case: Norm):
    """Returns the computation and the names of its inputs."""
    names = ("x", "gamma", "beta", *(["residual"] if case.residual else []))
    if contender == "op":

        def op(x, gamma, beta, residual=None):
            return tfgn.group_norm(
                x,
                gamma,
                beta,
                case.groups,
                axis=case.axis,
                activation=case.activation,
                residual=residual,
            )

        return op, names
    if contender == "floor":
        return tf.nn.relu, ("x",)
    if contender == "fused bn":

        def batch_norm(x, gamma, beta):
            # Its kernel takes images only: other shapes are reshaped to one.
            image = tf.reshape(x, [case.shape[0], 1, -1, case.shape[-1]])
            y, _, _ = tf.compat.v1.nn.fused_batch_norm(image, gamma, beta, is_training=True)
            return tf.reshape(y, case.shape)

        return batch_norm, names
    # The parameters are float32 for every dtype, as ours are.
    policy = case.dtype if case.dtype == "float32" else f"mixed_{case.dtype}"
    layer = keras.layers.GroupNormalization(case.groups, axis=case.axis, dtype=policy)
    layer.build(case.shape)

    def stock(x, gamma, beta, residual=None):
        y, _ = layer.stateless_call([gamma, beta], [], x)
        y = y if residual is None else y + residual
        return _ACTIVATIONS[case.activation](y)

    return stock, names


def _calls(contender: str, case: Calls):
    """Returns a graph of single ops, each on the output of the one before.

    The floor is a leaky ReLU: TensorFlow may drop a ReLU of a ReLU.
    """

    def op(x, a):
        parameters = {"gamma": a["gamma"], "beta": a["beta"], "side_input": [], "groups": 32}
        if not case.backward:
            return tfgn.raw_ops.GroupNorm(x=x, **parameters).y
        groups = (case.shape[0], 32)
        statistics = {"mean": tf.zeros(groups), "rstd": tf.ones(groups), "rest": []}
        return tfgn.raw_ops.GroupNormGrad(dy=x, x=a["x"], **parameters, **statistics).dx

    def floor(x, a):
        if not case.backward:
            return tf.raw_ops.LeakyRelu(features=x)
        return tf.raw_ops.LeakyReluGrad(gradients=x, features=a["x"])

    compute = {"op": op, "floor": floor}[contender]

    @tf.function(autograph=False)
    def graph(a):
        x = a["dy"] if case.backward else a["x"]
        for _ in range(case.length):
            x = compute(x, a)
        return x

    return graph


_STANDARDIZATIONS = {
    "op": lambda kernels: [tfgn.standardize_weights(w) for w in kernels],
    "composite": lambda kernels: [tfgn.stock.standardize_weights(w) for w in kernels],
}
