"""The gradients of the reference against complex-step derivatives of its values."""

import cases
import numpy as np
import pytest
import reference

STEP = 1e-30


def assert_gradients(function, arguments, dy):
    gradients = function(**arguments, dy=dy).gradients
    assert set(gradients) == set(arguments)
    for name, argument in arguments.items():
        for index in np.ndindex(argument.shape):
            stepped = argument.astype(complex)
            stepped[index] += 1j * STEP
            y = function(**arguments | {name: stepped}).y
            derivative = (dy * y.imag).sum() / STEP
            np.testing.assert_allclose(gradients[name][index], derivative, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize(
    "shape, axis, parameter", [((2, 3, 4), -1, (4,)), ((2, 4, 3), 1, (2, 4)), ((2, 4), -1, (4,))]
)
def test_group_norm(shape, axis, parameter, activation):
    rng = np.random.default_rng(0)
    arguments = {
        name: rng.normal(size=s)
        for name, s in (("x", shape), ("gamma", parameter), ("beta", parameter), ("side", shape))
    }
    assert_gradients(
        lambda **a: reference.group_norm(**a, groups=2, axis=axis, activation=activation),
        arguments,
        rng.normal(size=shape),
    )


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("mode", cases.EPSILON_MODES)
@pytest.mark.parametrize("shape, axis", [((2, 3, 4), (-1,)), ((2, 3, 2, 2), (1, 3))])
def test_standardize_weights(shape, axis, mode, ddof):
    rng = np.random.default_rng(0)
    outputs = int(np.prod([shape[i] for i in axis]))
    assert_gradients(
        lambda **a: reference.standardize_weights(
            **a, axis=axis, epsilon=0.7, epsilon_mode=mode, ddof=ddof, scale=0.5
        ),
        {"w": rng.normal(size=shape), "gain": rng.normal(size=outputs)},
        rng.normal(size=shape),
    )
