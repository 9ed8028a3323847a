"""The networks of a study."""

import keras
import numpy as np
import pytest
from study_runs import study
from tensorflow_groupnorm import layers, models
from tfgn_study import networks
from tfgn_study.norms import NORMS
from tfgn_study.train import resnet


@pytest.mark.parametrize("norm", NORMS)
def test_network_has_the_layers_of_its_norm(norm):
    planned = study(norms=(norm,), batch_sizes=(4,))
    model = resnet.build(planned.runs("", "")[0], (8, 8, 1), 10)
    assert model.output_shape == (None, 10)
    groups = {
        layer.gamma.shape[0]: layer.groups
        for layer in model.layers
        if isinstance(layer, layers.GroupNormalization)
    }
    expected = {"ln": {16: 1, 32: 1, 64: 1}, "in": {16: 16, 32: 32, 64: 64}}
    expected |= dict.fromkeys(("gn", "gn+ws"), {16: 8, 32: 8, 64: 8})
    assert groups == expected.get(norm, {})
    kinds = [type(layer) for layer in model.layers]
    assert (keras.layers.BatchNormalization in kinds) == (norm == "bn")
    assert kinds.count(layers.StandardizedConv2D) == (9 if "ws" in norm else 0)
    # A GroupNorm takes the addition and the ReLU with it.
    assert (keras.layers.Add in kinds) == (norm in ("bn", "ws", "none"))
    assert np.isfinite(model(np.zeros((2, 8, 8, 1)))).all()


@pytest.mark.parametrize(("norm", "pairs"), [("bn", 0), ("ln", 5), ("gn", 5), ("gn+ws", 5)])
def test_networks_that_save_memory(norm, pairs):
    planned = study(norms=(norm, "gn"), batch_sizes=(4,), save_memory=True)
    run = next(run for run in planned.runs("", "") if run.norm == norm)
    model = resnet.build(run, (8, 8, 1), 10)
    found = [x for x in model.layers if isinstance(x, layers.RecomputedNormalization)]
    assert len(found) == pairs


def test_group_size_gives_channels_per_group():
    planned = study(norms=("gn",), group_size=4)
    model = resnet.build(planned.runs("", "")[0], (8, 8, 1), 10)
    norms = [x for x in model.layers if isinstance(x, layers.GroupNormalization)]
    assert {layer.gamma.shape[0] // layer.groups for layer in norms} == {4}


@pytest.mark.parametrize("norm", NORMS)
def test_published_networks_have_their_norm(norm):
    planned = study(norms=(norm,), models=("resnet18",), groups=32, image_size=32)
    model = resnet.build(planned.runs("", "")[0], (32, 32, 3), 5)
    assert model.output_shape == (None, 5)
    kinds = [type(layer) for layer in model.layers]
    assert (layers.GroupNormalization in kinds) == (norm in ("ln", "in", "gn", "gn+ws"))
    assert (layers.StandardizedConv2D in kinds) == ("ws" in norm)
    momenta = {x.momentum for x in model.layers if isinstance(x, keras.layers.BatchNormalization)}
    assert momenta == ({resnet.BN_MOMENTUM} if norm == "bn" else set())


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
