"""The ops on a GPU, with `--device=GPU`: there, and as on the CPU."""

import keras
import numpy as np
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn


@pytest.fixture(autouse=True)
def _gpu_only(device):
    if device != "GPU":
        pytest.skip("needs --device=GPU")
    tf.config.set_soft_device_placement(False)
    yield
    tf.config.set_soft_device_placement(True)


def both_ops(x, gamma, beta, residual, w, gain):
    """Values and gradients of both ops."""
    sources = [x, gamma, beta, residual, w, gain]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = tfgn.group_norm(x, gamma, beta, 8, activation="silu", residual=residual)
        w_hat = tfgn.standardize_weights(w, gain, variant="nfnet")
        loss = tf.reduce_sum(tf.cast(y, "float32") ** 2) + tf.reduce_sum(w_hat**3)
    return [y, w_hat, *tape.gradient(loss, sources)]


def arguments(dtype):
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 30, 17, 64), "gamma": 64, "beta": 64, "residual": (2, 30, 17, 64)}
    shapes |= {"w": (3, 3, 64, 32), "gain": 32}
    values = {name: rng.normal(0.5, 1, shape) for name, shape in shapes.items()}
    return [
        tf.cast(value, dtype if name in ("x", "residual") else "float32")
        for name, value in values.items()
    ]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_kernels_run_on_the_gpu_and_agree_with_the_cpu(dtype, jit):
    call = tf.function(both_ops, jit_compile=jit, autograph=False)
    with tf.device("GPU:0"):
        first, second = (call(*arguments(dtype)) for _ in range(2))
    with tf.device("CPU:0"):
        expected = both_ops(*arguments(dtype))
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 2e-5}[dtype]
    for actual, again, value in zip(first, second, expected, strict=True):
        assert "GPU:0" in actual.device
        assert tf.reduce_all(actual == again), "not the same bits"
        actual, value = (tf.cast(t, "float64").numpy() for t in (actual, value))
        assert np.linalg.norm(actual - value) <= tolerance * np.linalg.norm(value)


@pytest.mark.parametrize("jit", [False, True])
def test_training_goes_as_on_the_cpu(jit):
    def losses(device, jit):
        with tf.device(device):
            model = small_resnet.build()
            optimizer = keras.optimizers.SGD(0.1)
            images, labels = tf.constant(small_resnet.IMAGES), tf.constant(small_resnet.LABELS)

            @tf.function(jit_compile=jit)
            def gradients():
                with tf.GradientTape() as tape:
                    loss = small_resnet.LOSS(labels, model(images, training=True))
                return loss, tape.gradient(loss, model.trainable_variables)

            found = []
            for _ in range(4):
                loss, of_loss = gradients()
                optimizer.apply(of_loss, model.trainable_variables)
                found.append(float(loss))
            return found

    on_gpu = losses("GPU:0", jit)
    assert on_gpu[-1] < on_gpu[0]
    np.testing.assert_allclose(on_gpu, losses("CPU:0", False), rtol=1e-3)
