"""RecomputedNormalization: the results of the plain layers, without the normalized tensor."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from keras import layers as kl
from paths import SUPPORT, python_path
from recomputed import (
    applied,
    assert_same,
    both,
    by_name,
    fit,
    gradient_operations,
    inputs_of,
    norm,
    training_step,
)
from tensorflow_groupnorm import layers as tl
from tensorflow_groupnorm.layers import RecomputedNormalization

#: NumPy warns in `Model.save` (keras.src.backend.tensorflow.core.convert_to_numpy).
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGE, LINE, VOLUME = (8, 8, 4), (8, 4), (4, 4, 4, 4)


def conv(name="conv", **kwargs):
    return kl.Conv2D(6, 3, name=name, **kwargs)


#: What reads the normalized tensor, and the shape of an input.
READERS = {
    "conv1d": (lambda: [[kl.Conv1D(6, 3, name="conv")]], LINE),
    "conv2d": (lambda: [[conv()]], IMAGE),
    "conv2d_strided": (lambda: [[conv(strides=2, padding="same")]], IMAGE),
    "conv2d_dilated": (lambda: [[conv(dilation_rate=2, use_bias=False)]], IMAGE),
    "conv3d": (lambda: [[kl.Conv3D(6, 3, name="conv")]], VOLUME),
    "conv1d_transpose": (lambda: [[kl.Conv1DTranspose(6, 3, name="conv")]], LINE),
    "conv2d_transpose": (lambda: [[kl.Conv2DTranspose(6, 3, strides=2, name="conv")]], IMAGE),
    "conv3d_transpose": (lambda: [[kl.Conv3DTranspose(6, 3, name="conv")]], VOLUME),
    "depthwise": (lambda: [[kl.DepthwiseConv2D(3, name="conv")]], IMAGE),
    "separable": (lambda: [[kl.SeparableConv2D(6, 3, name="conv")]], IMAGE),
    "dense": (lambda: [[kl.Dense(6, name="dense")]], (4,)),
    "dense_of_positions": (lambda: [[kl.Dense(6, name="dense")]], IMAGE),
    "einsum": (lambda: [[kl.EinsumDense("bhwc,cd->bhwd", (8, 8, 6), name="dense")]], IMAGE),
    "standardized": (lambda: [[tl.StandardizedConv2D(6, 3, name="conv")]], IMAGE),
    "standardized_gain": (lambda: [[tl.StandardizedConv2D(6, 3, gain=True, name="conv")]], IMAGE),
    "standardized_1d": (lambda: [[tl.StandardizedConv1D(6, 3, name="conv")]], LINE),
    "standardized_3d": (lambda: [[tl.StandardizedConv3D(6, 3, name="conv")]], VOLUME),
    "standardized_transpose": (
        lambda: [[tl.StandardizedConv2DTranspose(6, 3, name="conv")]],
        IMAGE,
    ),
    "standardized_depthwise": (lambda: [[tl.StandardizedDepthwiseConv2D(3, name="conv")]], IMAGE),
    "standardized_separable": (
        lambda: [[tl.StandardizedSeparableConv2D(6, 3, name="conv")]],
        IMAGE,
    ),
    "standardized_dense": (lambda: [[tl.StandardizedDense(6, name="dense")]], (4,)),
    "wrapped": (
        lambda: [[tl.WeightStandardization(conv(), variant="qiao", name="wrapper")]],
        IMAGE,
    ),
    "padded": (lambda: [[kl.ZeroPadding2D(1), tl.StandardizedConv2D(6, 3, name="conv")]], IMAGE),
    "pooled": (lambda: [[kl.AveragePooling2D(2), kl.Conv2D(6, 1, name="conv")]], IMAGE),
    "flattened": (lambda: [[kl.Flatten(), kl.Dense(3, name="dense")]], IMAGE),
    "upsampled": (lambda: [[kl.UpSampling2D(2), conv()]], IMAGE),
    "two": (lambda: [[tl.StandardizedConv2D(6, 3, name="a")], [conv("b", strides=2)]], IMAGE),
    "itself": (lambda: [[conv()], []], IMAGE),
}


#: What runs in every mode; the other readers run in graphs, and thoroughly in the other modes.
EVERYWHERE = {"conv2d", "separable", "dense", "standardized", "wrapped", "padded", "two", "itself"}


@pytest.mark.parametrize(
    ("reader", "mode"),
    [
        pytest.param(
            reader,
            mode,
            marks=[pytest.mark.thorough] * (mode != "graph" and reader not in EVERYWHERE),
        )
        for reader in READERS
        for mode in ("graph", "eager", "jit")
    ],
)
def test_results_of_the_plain_layers(reader, mode):
    readers, shape = READERS[reader]
    plain, recomputed = both(norm(activation="relu"), readers, shape)
    inputs = inputs_of(plain)
    how = {"graph": mode != "eager", "jit": mode == "jit"}
    assert_same(training_step(recomputed, inputs, **how), training_step(plain, inputs, **how))


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("call", [[], ["residual"], ["scale", "shift"], ["shift", "residual"]])
def test_arguments_of_the_normalization(call, activation):
    plain, recomputed = both(
        norm(activation=activation, epsilon=1e-2), READERS["standardized"][0], call=call
    )
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


@pytest.mark.parametrize("affine", [{"scale": False}, {"center": False}, {"axis": 1}])
def test_forms_of_the_normalization(affine):
    plain, recomputed = both(norm(**affine), READERS["conv2d"][0], (8, 8, 8))
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"])
def test_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        plain, recomputed = both(norm(activation="silu"), READERS["two"][0])
    finally:
        keras.config.set_dtype_policy(before)
    inputs = inputs_of(plain)
    assert {layer.dtype_policy.name for layer in recomputed.layers} == {policy}
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_layers_of_different_precision():
    plain, recomputed = both(
        norm(activation="relu", dtype="mixed_bfloat16"),
        lambda: [[conv("a", dtype="float32")], [conv("b", dtype="mixed_bfloat16")]],
    )
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_a_subclass_that_computes_arguments():
    class Modulated(tl.GroupNormalization):
        def call(self, inputs):
            return super().call(inputs, shift=tf.reduce_mean(inputs, axis=[1, 2]))

    plain, recomputed = both(lambda: Modulated(2, name="norm"), READERS["conv2d"][0])
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_a_subclass_that_computes_more():
    class Doubled(tl.GroupNormalization):
        def call(self, inputs):
            return 2 * super().call(inputs)

    layer = RecomputedNormalization(Doubled(2), conv())
    x = tf.ones((1, 8, 8, 4))
    np.testing.assert_array_equal(layer(x), applied(layer.layers, layer.normalization(x)))
    with tf.GradientTape(), pytest.raises(ValueError, match="Doubled returns something else"):
        layer(x)


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
    (loss, _, gradients), (expected_loss, _, expected) = results
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
        primal = x if name == "x" else by_name(model.trainable_variables)[name].value
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
    assert sorted(by_name(recomputed.trainable_variables)) == [
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
    for name, variable in by_name(plain.weights).items():
        if "lora" in name:
            variable.assign(np.random.default_rng(1).normal(size=variable.shape))
        by_name(recomputed.weights)[name].assign(variable.value)
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
    for name, variable in by_name(model.weights).items():
        variable.assign(by_name(plain.weights)[name].value)
    inputs = inputs_of(plain)
    assert_same(training_step(model, inputs), training_step(plain, inputs))


# --- Keras ---


@pytest.mark.parametrize("reader", READERS)
def test_files(reader, tmp_path):
    readers, shape = READERS[reader]
    _, model = both(norm(activation="relu"), readers, shape)
    inputs = inputs_of(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert list(by_name(loaded.weights)) == list(by_name(model.weights))
    for a, b in zip(tf.nest.flatten(loaded(inputs)), tf.nest.flatten(model(inputs)), strict=True):
        np.testing.assert_array_equal(a, b)
    for variable in loaded.weights:
        variable.assign(tf.zeros_like(variable.value))
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_single_reader():
    plain, recomputed = both(norm(activation="relu"), READERS["conv2d"][0], single=True)
    layer = recomputed.layers[-1]
    assert recomputed.output.shape == (None, 6, 6, 6)
    assert layer.compute_output_shape((2, 8, 8, 4)) == (2, 6, 6, 6)
    clone = RecomputedNormalization.from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()
    inputs = inputs_of(plain)
    assert_same(training_step(recomputed, inputs), training_step(plain, inputs))


def test_sequential_and_names():
    model = keras.Sequential(
        [keras.Input(IMAGE), RecomputedNormalization(norm()(), conv())], name="sequential"
    )
    assert [v.path for v in model.weights] == [
        "sequential/norm/gamma",
        "sequential/norm/beta",
        "sequential/conv/kernel",
        "sequential/conv/bias",
    ]
    assert model.output_shape == (None, 6, 6, 6)


def test_masked_inputs_are_those_of_the_plain_layers():
    x = keras.Input(LINE)
    layer = RecomputedNormalization(norm(use_mask=True)(), kl.Conv1D(3, 3, name="conv"))
    model = keras.Model(x, layer(kl.Masking()(x)))
    values = np.random.default_rng(0).normal(size=(2, *LINE)).astype("float32")
    values[:, 5:] = 0
    normalized = layer.normalization(values, mask=np.arange(8)[None] < [[5], [5]])
    with tf.GradientTape(), pytest.warns(UserWarning, match="Conv1D.*does not support masking"):
        result = model(values)
    np.testing.assert_array_equal(result, layer.layers[0](normalized.numpy()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: (kl.GroupNormalization(2), conv()), "`normalization` must be a tensorflow_group"),
        (lambda: (tl.GroupNormalization(2, activation="gelu"), conv()), "activation=.*gelu"),
        (lambda: (tl.GroupNormalization(2), conv(activation="relu")), "activation relu is not lin"),
        (lambda: (tl.GroupNormalization(2), kl.MaxPooling2D()), "MaxPooling2D is not known to be"),
        (lambda: (tl.GroupNormalization(2), [[conv(), kl.ReLU()]]), "class ReLU is not known"),
        (lambda: (tl.GroupNormalization(2), conv(activity_regularizer="l2")), "an activity regul"),
        (
            lambda: (tl.GroupNormalization(2, activity_regularizer="l2"), conv()),
            "`normalization` must have no activity regularizer",
        ),
        (lambda: (tl.GroupNormalization(2), [3]), "`layers` must be a layer, or a list of layers"),
        (lambda: (tl.GroupNormalization(2), [conv()] * 2), "`layers` must hold each layer once"),
        (
            lambda: (
                tl.GroupNormalization(2),
                tl.WeightStandardization(conv(activation="relu")),
            ),
            "activation relu is not linear",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecomputedNormalization(*arguments())


def test_a_subclass_of_a_convolution_with_a_call_of_its_own_is_not_known_to_be_linear():
    class Squared(kl.Conv2D):
        def call(self, inputs):
            return super().call(inputs) ** 2

    class Named(kl.Conv2D):
        pass

    RecomputedNormalization(norm()(), Named(3, 3))
    with pytest.raises(ValueError, match="class Squared is not known to be linear"):
        RecomputedNormalization(norm()(), Squared(3, 3))
