"""An MLServer runtime for SavedModels with the fused ops. In this folder, run `mlserver start .`.

It serves the signature `serving_default` of the SavedModel that `model-settings.json` names, by the
Open Inference Protocol (`POST /v2/models/groupnorm/infer`). The signature must have one float32
input.
"""

import asyncio

import numpy as np
import tensorflow as tf
import tensorflow_groupnorm  # noqa: F401  Loads the ops that the SavedModel needs.
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class SavedModel(MLModel):
    async def load(self):
        loaded = tf.saved_model.load(await get_model_uri(self._settings))
        self._loaded = loaded  # Keeps the variables of the signatures alive.
        self._signature = loaded.signatures["serving_default"]
        ((self._input, self._spec),) = self._signature.structured_input_signature[1].items()
        # Missing ops are only detected by a run, so MLServer is not ready before it.
        self._run(np.zeros([size or 1 for size in self._spec.shape], np.float32))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        # In a thread, so that health checks are answered meanwhile.
        outputs = await asyncio.to_thread(self._run, self._decode(payload))
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, value) for name, value in outputs.items()],
        )

    def _decode(self, payload):
        if len(payload.inputs) != 1:
            raise MLServerError(f"expected one input, received {len(payload.inputs)}")
        try:
            x = NumpyCodec.decode_input(payload.inputs[0])
        except (TypeError, ValueError) as error:
            raise MLServerError(f"the input cannot be read: {error}") from error
        if x.dtype != np.float32 or not self._spec.shape.is_compatible_with(x.shape):
            raise MLServerError(
                f"expected an input of type FP32 and shape {self._spec.shape}, received "
                f"{payload.inputs[0].datatype} and {x.shape}"
            )
        return x

    def _run(self, x):
        outputs = self._signature(**{self._input: tf.constant(x)})
        return {name: value.numpy() for name, value in outputs.items()}
