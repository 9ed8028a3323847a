"""The networks of a study."""

import collections

import keras
import numpy as np
import pytest
from study_runs import study
from tensorflow_groupnorm import layers, models
from tfgn_study import networks
from tfgn_study.norms import NORMS
from tfgn_study.train import network
from tfgn_study.train.normalizations import (
    batch_channel,
    batch_norm,
    channels,
    evonorm,
    filter_response,
    normalizer_free,
    proxy,
)

STANDARDIZED = ("gn+ws", "bcn+ws", "ws", "nf")

#: The layers of a ResNet-8 by norm: 5 norms with a ReLU at once, 2 without, and 3 before an
#: addition and a ReLU; 9 convolutions.
LAYERS = {
    "bn": {keras.layers.BatchNormalization: 9, keras.layers.Activation: 7, keras.layers.Add: 3},
    "gn": {layers.GroupNormalization: 9},
    "gn+pn": {proxy.ProxyNormalizedActivation: 4, layers.GroupNormalization: 5},
    "bcn+ws": {batch_channel.EstimatedBatchNormalization: 9, layers.GroupNormalization: 9},
    "frn": {
        filter_response.FilterResponseNormalization: 9,
        filter_response.ThresholdedLinearUnit: 7,
        keras.layers.Add: 3,
    },
    "evonorm-s0": {
        evonorm.EvoNormS0: 4,
        channels.ScaleAndShift: 5,
        keras.layers.Activation: 3,
        keras.layers.Add: 3,
    },
    "ws": {keras.layers.Activation: 7, keras.layers.Add: 3},
    "nf": {
        normalizer_free.ScaledReLU: 4,
        normalizer_free.SkipInit: 3,
        keras.layers.Activation: 3,
        keras.layers.Add: 3,
    },
}
LAYERS |= dict.fromkeys(("bn+precise", "bn+accumulate"), LAYERS["bn"])
LAYERS |= {
    name: {layer: 9, keras.layers.Activation: 7, keras.layers.Add: 3}
    for name, layer in (
        ("bn+renorm", batch_norm.BatchRenormalization),
        ("bn+frozen", batch_norm.FreezableBatchNormalization),
    )
}
LAYERS |= dict.fromkeys(("ln", "in", "gn+ws"), LAYERS["gn"]) | {"none": LAYERS["ws"]}
OTHERS = (
    keras.layers.InputLayer,
    keras.layers.Rescaling,
    keras.layers.Conv2D,
    layers.StandardizedConv2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Dense,
)


@pytest.mark.parametrize("norm", NORMS)
def test_network_has_the_layers_of_its_norm(norm):
    planned = study(norms=(norm,), batch_sizes=(4,))
    model = network.build(planned.runs("", "")[0], (8, 8, 1), 10)
    assert model.output_shape == (None, 10)
    found = collections.Counter(map(type, model.layers))
    assert {kind: count for kind, count in found.items() if kind not in OTHERS} == LAYERS[norm]
    convolutions = layers.StandardizedConv2D if norm in STANDARDIZED else keras.layers.Conv2D
    assert found[convolutions] == 9
    groups = {
        layer.gamma.shape[0]: layer.groups
        for layer in model.layers
        if isinstance(layer, layers.GroupNormalization)
    }
    expected = {"ln": {16: 1, 32: 1, 64: 1}, "in": {16: 16, 32: 32, 64: 64}}
    expected |= dict.fromkeys(("gn", "gn+ws", "gn+pn", "bcn+ws"), {16: 8, 32: 8, 64: 8})
    assert groups == expected.get(norm, {})
    assert np.isfinite(model(np.zeros((2, 8, 8, 1)))).all()


@pytest.mark.parametrize("norm", ["gn+pn", "evonorm-s0", "bcn+ws"])
def test_groups_reach_the_normalizations(norm):
    def logits(text):
        planned = study(norms=(text,), batch_sizes=(4,))
        keras.utils.set_random_seed(0)
        return network.build(planned.runs("", "")[0], (8, 8, 1), 10)(images)

    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1))
    same, other = logits(f"{norm}:groups=8"), logits(f"{norm}:size=4")
    np.testing.assert_array_equal(same, logits(norm))
    assert np.abs(same - other).max() > 1e-3


@pytest.mark.parametrize(("norm", "pairs"), [("bn", 0), ("ln", 5), ("gn", 5), ("gn+ws", 5)])
def test_networks_that_save_memory(norm, pairs):
    planned = study(norms=(norm, "gn"), batch_sizes=(4,), save_memory=True)
    run = next(run for run in planned.runs("", "") if run.norm == norm)
    model = network.build(run, (8, 8, 1), 10)
    found = [x for x in model.layers if isinstance(x, layers.RecomputedNormalization)]
    assert len(found) == pairs


def test_group_size_gives_channels_per_group():
    planned = study(norms=("gn",), group_size=4)
    model = network.build(planned.runs("", "")[0], (8, 8, 1), 10)
    norms = [x for x in model.layers if isinstance(x, layers.GroupNormalization)]
    assert {layer.gamma.shape[0] // layer.groups for layer in norms} == {4}


@pytest.mark.parametrize("norm", sorted(NORMS.keys() - {"bn+precise", "bn+accumulate"}))
def test_published_networks_have_their_norm(norm):
    planned = study(norms=(norm,), models=("resnet18",), groups=32, image_size=32)
    model = network.build(planned.runs("", "")[0], (32, 32, 3), 5, steps=7)
    assert model.output_shape == (None, 5)
    kinds = [type(layer) for layer in model.layers]
    grouped = ("ln", "in", "gn", "gn+ws", "gn+pn", "bcn+ws")
    assert (layers.GroupNormalization in kinds) == (norm in grouped)
    assert (layers.StandardizedConv2D in kinds) == (norm in STANDARDIZED)
    fixed = (keras.layers.BatchNormalization, batch_norm.FreezableBatchNormalization)
    momenta = {layer.momentum for layer in model.layers if type(layer) in fixed}
    assert momenta == ({batch_norm.MOMENTUM} if fixed[0] in kinds or fixed[1] in kinds else set())
    steps = {x.steps for x in model.layers if isinstance(x, batch_norm.BatchRenormalization)}
    assert steps == ({7} if norm == "bn+renorm" else set())


def test_widths_are_those_of_the_networks():
    for name in ("resnet34", "resnet50"):
        architecture = networks.MODELS[name]
        body = getattr(models, architecture.function)(include_top=False, input_shape=(32, 32, 3))
        found = {
            layer.gamma.shape[0]
            for layer in body.layers
            if isinstance(layer, layers.GroupNormalization)
        }
        assert found <= set(architecture.widths)
