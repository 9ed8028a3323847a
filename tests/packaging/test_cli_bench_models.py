"""The models of `tfgn bench MODEL`: what is refused, how they are converted and trained."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import small
from tensorflow_groupnorm.layers import RecomputedNormalization
from tfgn_cli._model_bench import models, steps
from tfgn_cli._model_bench.job import AS_IT_IS, CONVERTED, SAVING, Job, RefusedError
from tfgn_cli._model_bench.measuring import Measurer
from tfgn_cli._model_bench.sources import Sources

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def saved(tmp_path):
    small().save(tmp_path / "in.keras")
    return str(tmp_path / "in.keras")


def job(model="in.keras", batch_size=2, **options):
    return Job(model, batch_size, **options)


def test_inputs_get_the_sizes_of_the_job():
    (spec,) = models.inputs(small(), job(image_size=16))
    assert spec.shape.as_list() == [2, 16, 16, 3] and spec.dtype == tf.float32
    (spec,) = models.inputs(small(size=12), job())
    assert spec.shape.as_list() == [2, 12, 12, 3]
    (spec,) = models.inputs(small(size=12), job(image_size=12))
    assert spec.shape.as_list() == [2, 12, 12, 3]
    named = {name: keras.Input((4,), name=name) for name in ("a", "b")}
    added = keras.layers.Add()([keras.layers.Dense(1)(named["a"]), named["b"]])
    ((specs),) = models.inputs(keras.Model(named, added), job())
    assert {name: spec.shape.as_list() for name, spec in specs.items()} == {
        name: [2, 4] for name in named
    }
    drawn = steps.draw([specs])
    assert drawn[0].keys() == named.keys() and float(tf.math.reduce_std(drawn[0]["a"])) > 0


def frozen():
    model = small(size=8)
    model.trainable = False
    return model


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (lambda: small(), {}, "images of small has the shape (None, None, None, 3): --image-size"),
        (lambda: small(size=8), {"image_size": 9}, "takes inputs of the shape (None, 8, 8, 3) and"),
        (lambda: small(size=8, batch_size=4), {}, "takes batches of 4 only: --batch-size 4"),
        (lambda: small(size=8, dtype="uint8"), {}, "images of small takes uint8, which random"),
        (frozen, {}, "small has no trainable weights"),
        (lambda: keras.Sequential([keras.layers.Dense(1)], name="new"), {}, "new"),
    ],
)
def test_models_that_random_numbers_cannot_train_are_refused(model, options, sentence):
    with pytest.raises(RefusedError, match=re.escape(sentence)):
        models.inputs(model(), job(**options))


def test_outputs_without_a_gradient_are_refused():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(3)(inputs)
    specs = [tf.TensorSpec([2, 4])]
    model = keras.Model(inputs, keras.ops.argmax(dense, axis=-1), name="picks")
    with pytest.raises(RefusedError, match="an output of picks is int32, which has no gradient"):
        steps.inference(model, specs, jit=False)
    model = keras.Model(inputs, keras.ops.stop_gradient(dense), name="stops")
    with pytest.raises(RefusedError, match="no output of stops depends on a trainable weight"):
        steps.training_step(model, keras.optimizers.SGD(), jit=False)(tf.ones([2, 4]))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("ResNet50V3", {}, "neither a file nor the name of a model of keras.applications; similar"),
        ("resnet50v2", {}, "similar names are ResNet50V2, "),
        ("resnet", {}, "similar names are"),
        ("quite_another", {}, "of a model of keras.applications"),
        ("ResNet50", {"image_size": 8}, "ResNet50 cannot be built: Input size must be at least"),
        ("ResNet50", {"modules": ("no.such.module",)}, "--import: No module named 'no'"),
    ],
)
def test_models_that_are_not_there_are_refused(name, options, sentence):
    with pytest.raises(RefusedError, match=re.escape(sentence)):
        models.of_job(job(name, **options), AS_IT_IS)


def test_applications_are_built_for_the_size_of_the_images():
    model, _ = models.of_job(job("MobileNet", image_size=32), AS_IT_IS)
    (spec,) = models.inputs(model, job(image_size=32))
    assert spec.shape.as_list() == [2, 32, 32, 3]


def test_models_are_converted(saved):
    model, notes = models.of_job(job(saved, groups=4), CONVERTED)
    assert model.get_layer("norm").groups == 4 and not notes
    model, notes = models.of_job(job(saved), SAVING)
    (pair,) = [x for x in model.layers if isinstance(x, RecomputedNormalization)]
    assert [layer.name for layer in pair.layers] == ["conv2"] and not notes
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]).save(saved)
    _, notes = models.of_job(job(saved), SAVING)
    assert notes[:2] == [
        "the conversion replaces no layer of this model",
        "no normalization of this model could be paired with what reads its output",
    ]


@pytest.mark.parametrize("jit", [False, True])
def test_a_step_minimizes_the_mean_squares_and_the_losses_of_the_model(jit):
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(1, kernel_initializer="ones", kernel_regularizer="l2")
    model = keras.Model(inputs, [layer(inputs), inputs])
    loss = steps.training_step(model, steps.optimizer_of(model), jit)(tf.constant([[1.0, 2.0]]))
    np.testing.assert_allclose(loss, 9 + 2.5 + 0.02, rtol=1e-6)
    # d(9 + 0.01 |w|^2)/dw = 6 x + 0.02 w, and the first step of SGD has no momentum.
    rate = steps.LEARNING_RATE
    expected = [[1 - 6.02 * rate], [1 - 12.02 * rate]]
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-6)


def test_the_optimizer_is_that_of_the_model():
    model = small()
    assert steps.optimizer_of(model).momentum == steps.MOMENTUM
    model.compile(keras.optimizers.Adam(0.125))
    optimizer = steps.optimizer_of(model)
    assert isinstance(optimizer, keras.optimizers.Adam) and float(optimizer.learning_rate) == 0.125
    assert model.optimizer is None and not optimizer.built


def test_variants_are_converted_to_files_once(saved, tmp_path):
    asked = []

    def ask(method, *arguments):
        asked.append(arguments[1])
        return getattr(Measurer(), method)(*arguments)

    sources = Sources(job(saved), tmp_path, ask)
    assert sources.of(AS_IT_IS) == (job(saved), AS_IT_IS, [])
    source = sources.of(SAVING)
    assert sources.of(SAVING) is source and asked == [SAVING]
    model, _ = models.of_job(source.job, source.variant)
    assert any(isinstance(layer, RecomputedNormalization) for layer in model.layers)


def test_models_that_cannot_be_saved_are_converted_by_their_row(saved, tmp_path, monkeypatch):
    def fail(*_):
        raise NotImplementedError("no config")

    monkeypatch.setattr(keras.Model, "save", fail)
    sources = Sources(job(saved), tmp_path, lambda name, *args: getattr(Measurer(), name)(*args))
    notes = ["measured with the memory of its conversion: no config"]
    assert sources.of(SAVING) == (job(saved), SAVING, notes)


def test_compiled_models_are_trained_after_a_conversion(saved):
    model = small(size=12)
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    model.save(saved)
    for variant in (AS_IT_IS, SAVING):
        model, _ = models.of_job(job(saved), variant)
        step = steps.training_step(model, steps.optimizer_of(model), jit=False)
        kernels = [weight for weight in model.trainable_variables if weight.name == "kernel"]
        before = [kernel.numpy() for kernel in kernels]
        step(tf.random.normal([2, 12, 12, 3]))
        assert len(kernels) == 3
        for kernel, old in zip(kernels, before, strict=True):
            assert (kernel.numpy() != old).any()
