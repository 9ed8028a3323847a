"""`tfgn.convert` on the models of `keras.applications`, without their weights."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow_groupnorm as tfgn

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ALL = [name for name, _ in inspect.getmembers(keras.applications, inspect.isfunction)]
# Residuals; depthwise convolutions and squeeze-and-excitation; SiLU and layers with state.
QUICK = ["EfficientNetB0", "MobileNetV3Small", "ResNet50"]
SMALLEST_SIDE = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}
NOT_NORMALIZED = ("VGG16", "VGG19")


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    keras.backend.clear_session()


def converted(name):
    """Returns a model, its conversion, the report, and images for it."""
    side = SMALLEST_SIDE.get(name, 32)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(side, side, 3), classes=4)
    reports = []
    new = tfgn.convert(model, groups=8, report=reports.append)
    images = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype("float32")
    return model, new, reports[0], images


def check(name):
    model, new, report, images = converted(name)
    kinds = [type(layer) for layer in new._flatten_layers()]
    assert keras.layers.BatchNormalization not in kinds
    assert (report.count("replaced") > 0) == (name not in NOT_NORMALIZED)
    listed = [change for change in report.changes if change.type == "BatchNormalization"]
    assert len(listed) == report.dropped.get("moving_mean", 0)
    assert all(change.action == "replaced" for change in listed)
    assert new.count_params() == model.count_params() - sum(
        int(np.prod(variable.shape))
        for layer in model._flatten_layers()
        if type(layer) is keras.layers.BatchNormalization
        for variable in layer.non_trainable_variables
    )
    for layer in model.layers[-1:]:
        assert type(new.get_layer(layer.name)) is type(layer)
    new.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", run_eagerly=True)
    before = [np.array(v) for v in new.trainable_variables[:2]]
    assert np.isfinite(new.train_on_batch(images, np.array([0, 1])))
    after = [np.array(v) for v in new.trainable_variables[:2]]
    assert all(np.isfinite(v).all() for v in after)
    assert any((a != b).any() for a, b in zip(after, before, strict=True))
    return new, images


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_converts_and_trains(name):
    check(name)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ALL)
def test_every_model_converts_and_trains_and_is_saved(name, tmp_path):
    new, images = check(name)
    new.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), new(images))


@pytest.mark.thorough
def test_layers_of_convnext_and_efficientnet_are_decided_about_as_documented():
    _, _, report, _ = converted("ConvNeXtTiny")
    norms = [change for change in report.changes if change.type == "LayerNormalization"]
    assert len(norms) == 23 and {change.action for change in norms} == {"kept"}
    _, _, report, _ = converted("EfficientNetB0")
    kept = {change.name for change in report.changes if change.action == "kept"}
    squeezes = {f"block{b}_se_{kind}" for b in ("1a", "2a", "7a") for kind in ("reduce", "expand")}
    assert squeezes <= kept and "predictions" in kept
    assert not any("project_conv" in name or "dwconv" in name for name in kept)
