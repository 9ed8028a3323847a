"""RecomputedNormalization: what a step keeps, its derivatives, and training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from keras import layers as kl
from paths import SUPPORT, python_path
from recomputed import (
    IMAGE,
    READERS,
    assert_same,
    both,
    fit,
    gradient_operations,
    inputs_of,
    norm,
)
from tensorflow_groupnorm.layers import RecomputedNormalization
from training_steps import by_path, training_step

#: NumPy warns in `Model.save` (keras.src.backend.tensorflow.core.convert_to_numpy).
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# --- what is kept ---


@pytest.mark.parametrize("reader", ["conv2d", "two", "standardized", "wrapped"])
def test_the_backward_pass_needs_no_normalized_tensor_and_runs_no_convolution(reader):
    readers, shape = READERS[reader]
    plain, recomputed = both(norm(activation="relu"), readers, shape)

    def kept(model):
        """The ops of the gradient that read the output of the forward op."""
        operations = gradient_operations(model, inputs_of(model))
        of_forward = {op.name for op in operations if not op.name.startswith("gradient_tape/")}
        [y] = [op.outputs[0] for op in operations if op.type == "GroupNorm"][:1]
        readers = {op.name for op in operations} & {op.name for op in y.consumers()}
        return readers - of_forward, operations

    assert kept(plain)[0]
    of_gradient, operations = kept(recomputed)
    assert not {n for n in of_gradient if "Conv2DBackpropFilter" in n}
    forward = [op.type for op in operations].count("Conv2D")
    assert forward == [op.type for op in kept(plain)[1]].count("Conv2D")


def test_a_kernel_is_standardized_again_once():
    plain, recomputed = both(norm(activation="relu"), READERS["standardized"][0])
    for model, times in ((plain, 1), (recomputed, 2)):
        types = [op.type for op in gradient_operations(model, inputs_of(model))]
        assert types.count("StandardizeWeights") == times
        assert types.count("StandardizeWeightsGrad") == 1


def test_without_a_tape_it_is_the_plain_layers():
    plain, recomputed = both(norm(activation="relu"), READERS["two"][0])

    def types(model):
        graph = tf.function(lambda x: model(x)).get_concrete_function(*inputs_of(model)).graph
        return sorted(op.type for op in graph.get_operations() if op.type != "NoOp")

    assert types(recomputed) == types(plain)
    assert "IdentityN" not in types(recomputed)


@pytest.mark.parametrize("portable", [False, True])
def test_an_export_is_that_of_the_plain_layers(portable, tmp_path):
    nodes = []
    for model in both(norm(activation="relu"), READERS["two"][0]):
        tfgn.export(model, tmp_path / "model", portable=portable, overwrite=True)
        signature = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
        definition = signature.graph.as_graph_def()
        functions = [node for function in definition.library.function for node in function.node_def]
        nodes.append(sorted(node.op for node in [*definition.node, *functions]))
    plain, recomputed = nodes
    assert "IdentityN" not in plain
    assert recomputed == plain


def test_one_image_of_one_pixel():
    """Where Grappler adds up one position, its gradients of kernels once led back to y."""
    results = []
    for recomputed in (True, False):
        keras.utils.set_random_seed(0)
        x = keras.Input((1, 1, 4))
        before = kl.Conv2D(4, 1, name="before")(x)
        readers = [kl.Conv2D(6, 1, use_bias=False, name=name) for name in "ab"]
        normalization = norm(activation="relu")()
        if recomputed:
            outputs = RecomputedNormalization(normalization, readers)(before)
        else:
            outputs = [reader(normalization(before)) for reader in readers]
        model = keras.Model([x], kl.Dense(3, name="after")(kl.Flatten()(kl.Add()(outputs))))
        results.append(training_step(model, inputs_of(model, batch=1)))
    (_, loss, gradients), (_, expected_loss, expected) = results
    assert loss.numpy() == expected_loss.numpy()
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)


# --- derivatives ---


def test_second_order():
    plain, recomputed = both(norm(activation="silu", dtype="float64"), READERS["standardized"][0])

    def penalty(model):
        [x] = inputs_of(model)
        x = tf.constant(x)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.nest.flatten(model(x))[0]
            loss = tf.reduce_sum(tf.square(tape.gradient(y, x)))
        return outer.gradient(loss, [x, *(v.value for v in model.trainable_variables)])

    for a, b in zip(penalty(recomputed), penalty(plain), strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("traced_before", [False, True])
def test_a_tape_outside_of_a_function(traced_before):
    results = []
    for model in both(norm(activation="relu"), READERS["two"][0]):
        function = tf.function(model)
        [x] = map(tf.constant, inputs_of(model))
        if traced_before:
            function(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = sum(tf.reduce_sum(y**2) for y in function(x))
        results.append(tape.gradient(loss, [x, model.trainable_variables[2].value]))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["x", "before/kernel", "norm/gamma", "a/kernel"])
def test_forward_mode(name):
    """The product of the Hessian with a vector."""
    plain, recomputed = both(norm(activation="silu"), READERS["two"][0])

    def product(model):
        [x] = map(tf.constant, inputs_of(model))
        primal = x if name == "x" else by_path(model.trainable_variables)[name].value
        of = [x, *(v.value for v in model.trainable_variables)]
        with tf.autodiff.ForwardAccumulator(primal, tf.ones_like(primal)) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = sum(tf.reduce_sum(y**2) for y in model(x))
            gradients = tape.gradient(loss, of)
        return [accumulator.jvp(gradient) for gradient in gradients]

    products = list(zip(product(recomputed), product(plain), strict=True))
    assert any(b is not None for _, b in products)
    for a, b in products:
        assert (a is None) == (b is None)
        if b is not None:
            np.testing.assert_array_equal(a, b)


def test_frozen_layers_get_no_gradient():
    plain, recomputed = both(norm(activation="relu"), READERS["two"][0])
    for model in (plain, recomputed):
        for layer in model._flatten_layers():
            if layer.name in ("a", "norm"):
                layer.trainable = False
    assert sorted(by_path(recomputed.trainable_variables)) == [
        "b/bias",
        "b/kernel",
        "before/bias",
        "before/kernel",
    ]
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_lora(tmp_path):
    plain, recomputed = both(norm(activation="relu"), READERS["conv2d"][0])
    for model in (plain, recomputed):
        next(x for x in model._flatten_layers() if x.name == "conv").enable_lora(2)
    for name, variable in by_path(plain.weights).items():
        if "lora" in name:
            variable.assign(np.random.default_rng(1).normal(size=variable.shape))
        by_path(recomputed.weights)[name].assign(variable.value)
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))
    recomputed.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs)[0], recomputed(inputs)[0])


# --- training ---


@pytest.mark.parametrize("optimizer", [{}, {"gradient_accumulation_steps": 2}])
def test_fit(optimizer):
    plain, recomputed = both(norm(activation="relu"), READERS["two"][0])
    expected = fit(plain, **optimizer)
    for name, value in fit(recomputed, **optimizer).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


FIT_UNDER_JIT = """
import numpy as np
from recomputed import both, fit, norm
from tensorflow_groupnorm.layers import StandardizedConv2D

plain, recomputed = both(
    norm(activation="silu"),
    lambda: [[StandardizedConv2D(6, 3, name="a")], [StandardizedConv2D(6, 1, name="b")]],
)
expected = fit(plain, jit=True)
for name, value in fit(recomputed, jit=True).items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)
print("equal")
"""


@pytest.mark.slow
def test_fit_under_jit(run_python):
    # In an interpreter of its own: Keras does without XLA while determinism is enabled.
    result = run_python(FIT_UNDER_JIT, PYTHONPATH=python_path(SUPPORT))
    assert result.stdout.endswith("equal\n"), result.stderr


def test_mirrored_strategy():
    devices = tf.config.list_logical_devices("CPU")
    results = []
    for which in range(2):
        with tf.distribute.MirroredStrategy([device.name for device in devices[:2]]).scope():
            keras.utils.set_random_seed(0)
            results.append(fit(both(norm(activation="relu"), READERS["two"][0])[which]))
    plain, recomputed = results
    for name, value in recomputed.items():
        np.testing.assert_array_equal(value, plain[name], err_msg=name)


def test_stateless_call():
    plain, recomputed = both(norm(activation="relu"), READERS["standardized"][0])
    [x] = inputs_of(plain)
    values = [[v.value for v in m.trainable_variables] for m in (plain, recomputed)]

    def gradients(model, values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            y, _ = model.stateless_call(values, [], [x])
            loss = tf.reduce_sum(tf.nest.flatten(y)[0] ** 2)
        return tape.gradient(loss, values)

    for a, b in zip(*map(gradients, (recomputed, plain), values[::-1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rematerialization():
    plain, _ = both(norm(activation="relu"), READERS["standardized"][0])
    x = keras.Input(IMAGE)
    with keras.RematScope("full"):
        layer = RecomputedNormalization(norm(activation="relu")(), READERS["standardized"][0]())
    model = keras.Model([x], layer(kl.Dense(4, name="before")(x)))
    for name, variable in by_path(model.weights).items():
        variable.assign(by_path(plain.weights)[name].value)
    inputs = inputs_of(plain)
    assert_same(training_step(model, inputs), training_step(plain, inputs))
