"""What a training step keeps for its backward pass, counted in its graph."""

import keras
import pytest
import tensorflow_groupnorm as tfgn
from kept_tensors import kept_bytes

#: Bytes of the statistics of all normalizations and kernels of a step: its only small tensors.
_STATISTICS = 128 * 1024


@pytest.mark.slow
def test_resnet50v2_keeps_half_of_what_batch_norm_keeps():
    """The input of each normalization, and what max pooling needs, but no standardized kernel."""
    model = keras.applications.ResNet50V2(weights=None, input_shape=(64, 64, 3), classes=10)
    of_batch_norm = kept_bytes(model, 4)
    plain = kept_bytes(tfgn.convert(model, report=None), 4)
    paired = kept_bytes(tfgn.convert(model, save_memory=True, report=None), 4)
    assert plain["StandardizeWeights"] > 80 * 2**20
    assert plain["GroupNorm"] > 40 * _STATISTICS
    assert paired["StandardizeWeights"] < _STATISTICS
    assert paired["GroupNorm"] < _STATISTICS
    assert paired.total() < 0.52 * of_batch_norm.total()


@pytest.mark.thorough
def test_big_transfer_keeps_half():
    arguments = {"input_shape": (64, 64, 3), "classes": 10}
    plain = kept_bytes(tfgn.models.BiT_R50x1(**arguments), 4)
    paired = kept_bytes(tfgn.models.BiT_R50x1(**arguments, save_memory=True), 4)
    assert paired["StandardizeWeights"] < _STATISTICS
    assert paired.total() < 0.55 * (plain.total() - plain["StandardizeWeights"])


@pytest.mark.thorough
def test_post_activation_resnet_keeps_less():
    """The sum behind each block is kept as the residual of the next, the other half is not."""
    arguments = {"input_shape": (64, 64, 3), "classes": 10}
    plain = kept_bytes(tfgn.models.ResNet50(**arguments), 4)
    paired = kept_bytes(tfgn.models.ResNet50(**arguments, save_memory=True), 4)
    assert paired["StandardizeWeights"] < 0.2 * plain["StandardizeWeights"]
    del plain["StandardizeWeights"], paired["StandardizeWeights"]
    assert paired.total() < 0.85 * plain.total()
