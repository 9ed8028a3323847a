"""Serves a SavedModel with the fused ops in Ray Serve: `python serve_model.py --help`."""

import argparse

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=32)
class SavedModel:
    """Answers `{"instances": [...]}` with `{"predictions": [...]}`, as TensorFlow Serving does.

    It runs the signature `serving_default`, which must have one float32 input and one output.
    """

    def __init__(self, path):
        import tensorflow as tf
        import tensorflow_groupnorm  # noqa: F401  Loads the ops that the SavedModel needs.

        self._loaded = tf.saved_model.load(path)  # Keeps their variables alive.
        self._signature = self._loaded.signatures["serving_default"]
        ((self._input, self._spec),) = self._signature.structured_input_signature[1].items()
        # Missing ops are only detected by a run. Ray Serve sends no request before it.
        self._run(np.zeros([size or 1 for size in self._spec.shape], np.float32))

    async def __call__(self, request: Request):
        try:
            instances = (await request.json())["instances"]
            x = np.asarray(instances, np.float32)
        except (KeyError, TypeError, ValueError) as error:
            return _refuse(f'expected {{"instances": nested lists of numbers}}: {error!r}')
        if not self._spec.shape.is_compatible_with(x.shape):
            return _refuse(f"expected instances of shape {self._spec.shape}, received {x.shape}")
        return JSONResponse({"predictions": self._run(x).tolist()})

    def _run(self, x):
        (output,) = self._signature(**{self._input: x}).values()
        return output.numpy()


def _refuse(message):
    return JSONResponse({"error": message}, status_code=400)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of the SavedModel")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    args = parser.parse_args()
    # On this machine only. On a cluster, use ray.init() and host="0.0.0.0".
    ray.init(_node_ip_address="127.0.0.1", include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": args.port})
    serve.run(SavedModel.bind(args.model), name="groupnorm", route_prefix="/predict", blocking=True)


if __name__ == "__main__":
    main()
