"""Several workers on this machine: what tells them who they are, and what they print."""

import contextlib
import json
import os
import socket


def printed_json(log):
    """Returns what was printed as JSON, among the notes of TensorFlow and Ray."""
    values = []
    for line in log.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            values.append(json.loads(line))
    return values


def worker_environments(count):
    """Returns what tells each of several workers on this machine who they are."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    workers = [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]
    for server in servers:
        server.close()
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": workers}, "task": task})
        yield os.environ | {"TF_CONFIG": config}
