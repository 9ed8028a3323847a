"""Real servers, each from PyPI in an environment of its own, over HTTP.

Deselected by default: `pytest -m servers` downloads a few hundred megabytes the first time. The
environment variable TFGN_WHEEL names a wheel that is built already.
"""

import concurrent.futures
import contextlib
import http.client
import json
import shutil
import socket
import threading
import time

import environments
import numpy as np
import pytest
import small_resnet
import tensorflow as tf
from paths import EXAMPLES
from small_resnet import IMAGES

pytestmark = pytest.mark.servers

CLIENTS = 8
WARM_UP = 500
REQUESTS = 2000


class MLServer:
    environment = staticmethod(environments.mlserver)
    path = "/v2/models/groupnorm/infer"
    ready = "/v2/models/groupnorm/ready"
    malformed = (
        b"{",
        {},
        {"inputs": []},
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0.0]}]},
        {"inputs": [{"name": "x", "shape": [1, 8, 8, 3], "datatype": "FP32", "data": [0.0]}]},
        {"inputs": [{"name": "x", "shape": [1, 8, 8, 3], "datatype": "INT32", "data": [0] * 192}]},
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": ["a"]}]},
    )

    @staticmethod
    def command(python, port, saved_model, folder):
        shutil.copytree(EXAMPLES / "serving_mlserver", folder)
        shutil.copytree(saved_model, folder / "model")
        settings = json.loads((folder / "settings.json").read_text())
        settings |= {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
        (folder / "settings.json").write_text(json.dumps(settings))
        return [python.parent / "mlserver", "start", folder]

    @staticmethod
    def request(x):
        image = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.tolist()}
        return {"inputs": [image]}

    @staticmethod
    def answer(body):
        (output,) = body["outputs"]
        return np.float32(output["data"]).reshape(output["shape"])


class RayServe:
    environment = staticmethod(environments.ray)
    path = "/predict"
    ready = "/-/healthz"
    malformed = (
        b"{",
        [1],
        {"inputs": [[1.0]]},
        {"instances": [[1.0], 2.0]},
        {"instances": [["a"]]},
        {"instances": [0.0]},
    )

    @staticmethod
    def command(python, port, saved_model, folder):
        script = EXAMPLES / "serving_ray" / "serve_model.py"
        return [python, script, "--model", saved_model, "--port", str(port)]

    @staticmethod
    def request(x):
        return {"instances": x.tolist()}

    @staticmethod
    def answer(body):
        return np.float32(body["predictions"])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Client:
    """Posts JSON over connections that are kept, one per thread."""

    def __init__(self, port, kind):
        self._port = port
        self._kind = kind
        self._threads = threading.local()
        self._connections = []

    def fetch(self, method, path, body=None):
        """Returns the status and the body of the answer."""
        if not hasattr(self._threads, "connection"):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
            self._threads.connection = connection
            self._connections.append(connection)
        connection = self._threads.connection
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            connection.close()
            raise

    def post(self, body):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.fetch("POST", self._kind.path, body)

    def predict(self, x):
        status, body = self.post(self._kind.request(x))
        assert status == 200, body
        return self._kind.answer(json.loads(body))

    def is_ready(self):
        with contextlib.suppress(OSError):
            return self.fetch("GET", self._kind.ready)[0] == 200
        return False

    def close(self):
        for connection in self._connections:
            connection.close()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("small_resnet")
    small_resnet.build().export(path, verbose=False)
    return path


@pytest.fixture(scope="module", params=[MLServer, RayServe], ids=lambda kind: kind.__name__)
def server(request, wheel, saved_model, tmp_path_factory):
    """A server that is ready: the process, a client, its kind."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind.__name__)
    log = folder / "log"
    python = kind.environment(wheel)
    port = free_port()
    command = kind.command(python, port, saved_model, folder / "files")
    client = Client(port, kind)
    with (
        environments.running(command, log, cwd=folder) as process,
        contextlib.closing(client),
    ):
        deadline = time.monotonic() + 240
        while not (client.is_ready() and client.post(kind.request(IMAGES[:1]))[0] == 200):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield process, client, kind


def predict_by_many(client, batches):
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(client.predict, batches))


def test_concurrent_clients_get_the_answers_of_the_local_model(server, saved_model):
    _, client, _ = server
    local = tf.saved_model.load(saved_model).signatures["serving_default"]
    (name,) = local.structured_input_signature[1]
    # Each request another one, so that an answer to another's is seen.
    batches = [IMAGES[i % 16 : i % 16 + 1 + i % 5] + np.float32(i) for i in range(64)]
    answers = predict_by_many(client, batches)
    for x, y in zip(batches, answers, strict=True):
        (expected,) = local(**{name: tf.constant(x)}).values()
        np.testing.assert_array_equal(y, expected)


def test_malformed_requests_are_refused_and_the_server_lives(server):
    process, client, kind = server
    expected = client.predict(IMAGES)
    for body in kind.malformed:
        status, message = client.post(body)
        assert 400 <= status < 500, (body, status, message)
        np.testing.assert_array_equal(client.predict(IMAGES), expected)
    assert process.poll() is None


def test_memory_is_flat_over_2000_requests(server):
    """Flat: a server that kept as little as the input of each request would grow twice as much.

    Thread pools and allocators of 8 clients fill up during the requests before the first look.
    """
    process, client, _ = server
    predict_by_many(client, [IMAGES] * WARM_UP)
    before = environments.resident_bytes(process.pid)
    predict_by_many(client, [IMAGES] * REQUESTS)
    growth = environments.resident_bytes(process.pid) - before
    limit = REQUESTS * IMAGES.nbytes / 2
    assert growth < limit, f"{growth / 2**20:.1f} MiB, more than {limit / 2**20:.1f}"
