"""Which layers become TFLite and ONNX files that compute what the model does."""

import export_layers
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from export_runtimes import check
from tfgn_base.names import TARGETS

pytestmark = pytest.mark.slow


def inputs_of(model, batch):
    """Random inputs as positional arguments; unknown sizes are 6, integers 0 or 1."""
    generator = np.random.default_rng(3)

    def random(tensor):
        shape = [batch, *(6 if size is None else size for size in tensor.shape[1:])]
        if tensor.dtype.startswith("float"):
            return tf.constant(generator.standard_normal(shape), tensor.dtype)
        return tf.constant(generator.integers(0, 2, shape), tensor.dtype)

    tensors = [random(tensor) for tensor in model.inputs]
    return [tensors] if len(tensors) > 1 else tensors


# ONNX Runtime computes the variance of a GroupNormalization as E[x^2] - E[x]^2.
TOLERANCES = {"onnx": 1e-4}


@pytest.mark.parametrize("target", ["litert", "onnx", "onnxruntime"])
@pytest.mark.parametrize("name", export_layers.BUILD)
def test_layer_is_exported_or_refused_in_a_sentence(name, target, tmp_path):
    model = export_layers.built(name)
    format = TARGETS[target]
    sentence = export_layers.REFUSED.get((name, format))
    if sentence:
        with pytest.raises(tfgn.ExportError, match=sentence) as error:
            tfgn.export(model, tmp_path / "model", target=target)
        assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
        return
    path = tfgn.export(model, tmp_path / "model", target=target).path
    # Another batch than at the export: its size and unknown axes are free.
    inputs = inputs_of(model, 3)
    check(model, path, format, inputs, TOLERANCES.get(target, 1e-5))


@pytest.mark.parametrize("name", ["LSTM", "GRU, both ways, masked", "ConvLSTM2D"])
def test_recurrent_layers_become_tflite_with_a_fixed_batch_size(name, tmp_path):
    model = export_layers.built(name)
    signature = [tf.TensorSpec([3, *model.inputs[0].shape[1:]], name=model.inputs[0].name)]
    path = tfgn.export(model, tmp_path / "model", True, "tflite", input_signature=signature).path
    check(model, path, "tflite", inputs_of(model, 3))
