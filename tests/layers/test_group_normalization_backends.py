"""GroupNormalization on the other Keras backends, in the policy's dtype.

Deselected by default: `pytest -m servers` installs JAX into a folder of its own.
"""

import itertools
import json

import extra_packages
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_groupnorm.layers import GroupNormalization

pytestmark = pytest.mark.servers
SHAPE = (2, 7, 16)

CASES = """
import json, os
os.chdir(os.environ["WHERE"])
import keras, numpy as np
from tensorflow_groupnorm.layers import GroupNormalization
print(keras.backend.backend())
io = np.load("io.npz")
for case in json.load(open("cases.json")):
    layer = GroupNormalization(4, axis=case["axis"], activation=case["activation"],
        dtype=case["policy"], use_mask=case["mask"])
    x = io["x"] if case["axis"] == -1 else io["x"].transpose(0, 2, 1)
    x = x.astype(case["dtype"])
    given = {}
    if case["mask"]:
        given["mask"] = io["mask"]
    if case["residual"]:
        given["residual"] = 3 * x[:, :1] if case["axis"] == -1 else 3 * x[..., :1]
    if case["scale"]:
        given |= {"scale": io["scale"], "shift": io["scale"][0]}
    y = layer(x, **given)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype, (case, y.dtype)
    np.save(case["name"], np.asarray(keras.ops.convert_to_numpy(y), "float64"))
"""


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_returns_what_tensorflow_does(backend, tmp_path, run_python):
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(3, 20, SHAPE))
    mask = np.arange(7) < np.array([[4], [7]])
    scale = rng.normal(size=(2, 16))
    np.savez(tmp_path / "io.npz", x=x, mask=mask, scale=scale)
    names = ("axis", "activation", "policy", "dtype", "mask", "residual", "scale")
    options = (
        (-1, 1),
        ("silu", "gelu"),
        ("float32", "mixed_float16") + (("float64",) if backend == "numpy" else ()),
        ("float16", "int32", "float32"),
        *3 * [(False, True)],
    )
    cases = [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*options)]
    for i, case in enumerate(cases):
        case["name"] = f"{i}.npy"
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    # Keras' NumPy backend imports JAX too.
    packages = extra_packages.environment("jax", "jax==0.7.*", "jaxlib==0.7.*")
    run = run_python(CASES, WHERE=str(tmp_path), KERAS_BACKEND=backend, **packages)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [backend]
    for case in cases:
        layer = GroupNormalization(
            4,
            axis=case["axis"],
            activation=case["activation"],
            dtype=case["policy"],
            use_mask=case["mask"],
        )
        inputs = tf.cast(x if case["axis"] == -1 else x.transpose(0, 2, 1), case["dtype"])
        given = {"mask": mask} if case["mask"] else {}
        if case["residual"]:
            given["residual"] = 3 * (inputs[:, :1] if case["axis"] == -1 else inputs[..., :1])
        if case["scale"]:
            given |= {"scale": scale, "shift": scale[0]}
        actual, expected = (
            np.load(tmp_path / case["name"]),
            np.asarray(tf.cast(layer(inputs, **given), "float64")),
        )
        tolerance = 2e-3 if layer.compute_dtype == "float16" else 1e-5
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


GRADIENTS = """
import jax, keras, numpy as np
from tensorflow_groupnorm.layers import GroupNormalization
layer = GroupNormalization(4, activation="gelu", use_mask=True)
rng = np.random.default_rng(0)
x, mask = rng.normal(size=(3, 7, 16)).astype("float32"), np.arange(7) < np.array([[4], [7], [0]])
layer.build(x.shape)

def loss(x, r):
    y, _ = layer.stateless_call(layer.trainable_variables, [], x, residual=r, mask=mask)
    return keras.ops.sum(keras.ops.sin(y))

clean = jax.jit(jax.grad(loss, (0, 1)))(x, x)
x[~mask] = np.nan
for g, other in zip(jax.jit(jax.grad(loss, (0, 1)))(x, x), clean):
    assert np.isfinite(g).all() and np.array_equal(g, other)
    assert not np.any(np.asarray(g)[~mask]) and np.any(np.asarray(g)[mask])
"""


def test_gradients_with_a_mask_on_jax(run_python):
    packages = extra_packages.environment("jax", "jax==0.7.*", "jaxlib==0.7.*")
    run = run_python(GRADIENTS, KERAS_BACKEND="jax", **packages)
    assert run.returncode == 0, run.stderr
