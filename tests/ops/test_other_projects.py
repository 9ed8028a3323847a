"""The test cases of other projects for their group normalization.

By design, the op has no counterpart of

- oneDNN's flag `G` (statistics as inputs) and its 8-bit types;
- PyTorch's negative epsilon, with which a small variance gives the root of a negative number.

`heavy/test_onnx_cases.py` has those of ONNX, `test_keras_group_normalization.py` those of Keras.
"""

import cases
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from group_norm_checks import check
from parameters import named


def channels_last(case):
    n, c, *space = case.shape
    return cases.GroupNormCase((n, *space, c), -1, case.groups)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("affine", ["absent", "scale", "shift", "per_channel"])
@pytest.mark.parametrize("layout", [lambda case: case, channels_last], ids=["abx", "axb"])
@pytest.mark.parametrize("case", named(cases.group_norms("onednn")))
def test_onednn(case, layout, affine, dtype):
    check(layout(case), dtype, affine=affine)


def op_info():
    """PyTorch's description of `group_norm`, whose tests need `expecttest`."""
    pytest.importorskip("torch")
    pytest.importorskip("expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (info for info in op_db if info.name == "nn.functional.group_norm")
    return info


def numpy(tensor):
    return None if tensor is None else tensor.detach().numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("samples", ["sample_inputs", "reference_inputs"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_samples(samples, dtype):
    info = op_info()
    import torch

    accepted = 0
    for sample in getattr(info, samples)("cpu", getattr(torch, dtype), requires_grad=True):
        inputs = [sample.input, *(sample.kwargs.get(name) for name in ("weight", "bias"))]
        expected = info.op(sample.input, *sample.args, **sample.kwargs)
        dy = torch.testing.make_tensor(expected.shape, dtype=expected.dtype, device="cpu")
        given = [tensor for tensor in inputs if tensor is not None]
        theirs = torch.autograd.grad(expected, given, dy)

        ours = [None if t is None else tf.constant(numpy(t)) for t in inputs]
        epsilon = sample.kwargs.get("eps", 1e-5)
        if epsilon < 0:
            with pytest.raises(tf.errors.InvalidArgumentError, match="epsilon must"):
                tfgn.group_norm(*ours, sample.args[0], axis=1, epsilon=epsilon)
            continue
        with tf.GradientTape() as tape:
            tape.watch([t for t in ours if t is not None])
            actual = tfgn.group_norm(*ours, sample.args[0], axis=1, epsilon=epsilon)
        gradients = tape.gradient(actual, [t for t in ours if t is not None], numpy(dy))
        tolerance = {"float32": 1e-4, "float64": 1e-10}[dtype]
        np.testing.assert_allclose(actual, numpy(expected), rtol=tolerance, atol=tolerance)
        for mine, other in zip(gradients, theirs, strict=True):
            scale = max(1, np.abs(numpy(other)).max(initial=0))
            np.testing.assert_allclose(mine / scale, numpy(other) / scale, atol=tolerance)
        accepted += 1
    assert accepted >= 4


@pytest.mark.filterwarnings("ignore")
def test_pytorch_errors():
    count = 0
    for error in op_info().error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(tf.errors.InvalidArgumentError, match="x must|groups must"):
            tfgn.group_norm(tf.constant(numpy(sample.input)), groups=sample.args[0], axis=1)
        count += 1
    assert count >= 2
