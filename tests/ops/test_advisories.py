"""The faults of TensorFlow's security advisories for normalization ops, tried on these ops.

In each advisory an argument other than the main one was not checked. Here every such argument takes
each of the bad values: eagerly, in a graph whose shapes are unknown until run time, and under XLA.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn

GROUP_NORM = {"x": [2, 3, 8], "gamma": [8], "beta": [8]}
GROUP_NORM_GRAD = {"dy": [2, 3, 8], **GROUP_NORM, "mean": [2, 4], "rstd": [2, 4]}
LISTS = {"GroupNorm": {"side_input": []}, "GroupNormGrad": {"side_input": [], "rest": []}}
STANDARDIZE = {"w": [3, 3, 4, 8], "gain": [8]}
STANDARDIZE_GRAD = {"dw_hat": [3, 3, 4, 8], **STANDARDIZE, "mean": [8], "rstd": [8]}
OPS = {
    "GroupNorm": (GROUP_NORM, {"groups": 4}),
    "GroupNormGrad": (GROUP_NORM_GRAD, {"groups": 4}),
    "StandardizeWeights": (STANDARDIZE, {"Tout": "float32"}),
    "StandardizeWeightsGrad": (STANDARDIZE_GRAD, {}),
}
VECTORS = [
    (op, name) for op, (inputs, _) in OPS.items() for name in inputs if len(inputs[name]) < 3
]


def call(op, tensors):
    attributes = OPS[op][1] | LISTS.get(op, {})
    return getattr(tfgn.raw_ops, op)(**tensors, **attributes)


def run(mode, op, arrays):
    if mode == "eager":
        return call(op, {name: tf.constant(x) for name, x in arrays.items()})
    names = list(arrays)
    function = tf.function(
        lambda *tensors: call(op, dict(zip(names, tensors, strict=True))),
        autograph=False,
        jit_compile=mode == "jit",
        input_signature=[tf.TensorSpec(None)] * len(names),
    )
    return function(*map(tf.constant, arrays.values()))


def arrays_of(op, **changes):
    return {name: np.ones(shape, "float32") for name, shape in (OPS[op][0] | changes).items()}


modes = pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
vectors = pytest.mark.parametrize(("op", "name"), VECTORS)


def refuses(mode, op, name, shape):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} must have"):
        run(mode, op, arrays_of(op, **{name: shape}))


@modes
@vectors
def test_cve_2021_29583_empty_scale_offset_mean_or_variance(mode, op, name):
    """FusedBatchNorm read beyond the end of its parameters, or an empty one's null pointer."""
    if name in ("gamma", "beta", "gain"):  # [0] stands for an absent one
        shape = [0, OPS[op][0][name][0]]
        run(mode, op, arrays_of(op, **{name: [0]}))
    else:
        shape = [0]
    refuses(mode, op, name, shape)


@modes
@vectors
@pytest.mark.parametrize("size", [1, 7, 9])
def test_cve_2021_41223_parameters_shorter_than_the_channels(mode, op, name, size):
    """FusedBatchNorm took the number of channels from one input and read others to that length."""
    refuses(mode, op, name, [*OPS[op][0][name][:-1], size])


@modes
@pytest.mark.parametrize("op", OPS)
def test_cve_2021_29548_nothing_to_normalize(mode, op):
    """QuantizedBatchNormWithGlobalNormalization divided by the number of no elements."""
    main = {name: shape for name, shape in OPS[op][0].items() if len(shape) > 2}
    for axis in (0, 1):
        empty = {name: [0 if i == axis else n for i, n in enumerate(s)] for name, s in main.items()}
        if axis == 0 and "x" in main:
            empty |= dict.fromkeys({"mean", "rstd"} & set(OPS[op][0]), [0, 4])
        for output in run(mode, op, arrays_of(op, **empty)):
            for tensor in output if isinstance(output, list) else [output]:
                assert np.isfinite(tensor).all()


@modes
@vectors
@pytest.mark.parametrize("extra", [1, 2])
def test_cve_2022_35970_rank_of_the_small_inputs(mode, op, name, extra):
    """QuantizedInstanceNorm took x_min and x_max for scalars, and died where they were none."""
    refuses(mode, op, name, [*OPS[op][0][name], *[1] * extra])
    refuses(mode, op, name, [])
