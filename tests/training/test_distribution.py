"""Training on several devices and machines: the same losses as on one."""

import contextlib
import os
import sys

import environments
import numpy as np
import paths
import pytest
import tensorflow as tf
from workers import printed_json, worker_environments

pytestmark = pytest.mark.slow

EXAMPLES = paths.EXAMPLES / "distribution"
# The gradients of replicas are summed in another order than those of one device.
ROUNDING = 1e-4


TWO_DEVICES = """
import json
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""

KERAS_FIT = f"""
{TWO_DEVICES}
import keras, small_resnet
from small_resnet import IMAGES, LABELS, LOSS

def losses(strategy):
    with strategy.scope():
        model = small_resnet.build()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    history = model.fit(IMAGES, LABELS, batch_size=8, epochs=4, shuffle=False, verbose=0)
    return history.history["loss"]

two = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
one = tf.distribute.OneDeviceStrategy("/cpu:0")
print(json.dumps([two.num_replicas_in_sync, losses(two), losses(one)]))
"""


def test_keras_fit_under_mirrored_strategy(answer):
    path = paths.python_path(paths.SUPPORT)
    replicas, two, one = answer(KERAS_FIT, PYTHONPATH=path)
    assert replicas == 2
    assert one[-1] < 0.9 * one[0]
    np.testing.assert_allclose(two, one, rtol=ROUNDING)


TWO_WORKERS = """
import collections, json
import multi_worker
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
training = multi_worker.Training(strategy, 16)
print(json.dumps([strategy.num_replicas_in_sync, training.run(epochs=3)]))
images, labels = (a[:16] for a in multi_worker.load_images())

def collectives(replica_function):
    function = tf.function(lambda *batch: strategy.run(replica_function, batch))
    graph_def = function.get_concrete_function(images, labels).graph.as_graph_def()
    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    ops = collections.Counter(node.op for node in nodes)
    assert ops["GroupNormGrad"] == ops["StandardizeWeightsGrad"] == 2
    return sum(count for op, count in ops.items() if "Collective" in op)

print(json.dumps([collectives(f) for f in (training.loss_and_gradients, training.replica_step)]))
"""


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What two workers of the example printed: their losses, and what they send."""
    path = paths.python_path(EXAMPLES)
    logs = [tmp_path_factory.mktemp("worker") / "log" for _ in range(2)]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                environments.running(
                    [sys.executable, "-c", TWO_WORKERS], log, env=variables | {"PYTHONPATH": path}
                )
            )
            for log, variables in zip(logs, worker_environments(2), strict=True)
        ]
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(240) == 0, log.read_text()[-4000:]
    return [printed_json(log) for log in logs]


@pytest.fixture
def losses_of_one_process(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import multi_worker

    losses = multi_worker.Training(tf.distribute.get_strategy(), 16).run(3)
    assert losses[-1] < 0.1 * losses[0]
    return losses


def test_two_worker_processes(workers, losses_of_one_process):
    for (replicas, losses), _ in workers:
        assert replicas == 2
        np.testing.assert_allclose(losses, losses_of_one_process, rtol=ROUNDING)


def test_layers_send_nothing_between_workers(workers):
    for _, (forward_and_backward, step) in workers:
        assert forward_and_backward == 0 and step > 0


DTENSOR = f"""
{TWO_DEVICES}
import numpy as np
import tensorflow_groupnorm as tfgn
from tensorflow.experimental import dtensor

mesh = dtensor.create_mesh([("batch", 2)], devices=["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
x = rng.normal(size=(4, 5, 5, 8)).astype("float32")
kernel = rng.normal(size=(3, 3, 8, 8)).astype("float32")

def run(ops, x, kernel):
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = tf.nn.conv2d(x, ops.standardize_weights(kernel), 1, "SAME")
        y = ops.group_norm(y, groups=2)
        loss = tf.reduce_sum(y * y * y)
    return y, *tape.gradient(loss, [x, kernel])

def on_mesh(array):
    return dtensor.copy_to_mesh(array, dtensor.Layout.replicated(mesh, array.ndim))

def whole(tensor):
    parts = [part.numpy() for part in dtensor.unpack(tensor)]
    return np.concatenate(parts) if dtensor.fetch_layout(tensor).is_batch_parallel() else parts[0]

sharded = dtensor.relayout(on_mesh(x), dtensor.Layout.batch_sharded(mesh, "batch", rank=4))
results = tf.function(run)(tfgn.stock, sharded, on_mesh(kernel))
assert [dtensor.fetch_layout(t).is_fully_replicated() for t in results] == [False, False, True]
for actual, expected in zip(results, run(tfgn, tf.constant(x), tf.constant(kernel))):
    np.testing.assert_allclose(whole(actual), expected, rtol=1e-3, atol=1e-3)
try:
    tf.function(lambda x: tfgn.group_norm(x, groups=2))(sharded)
except tf.errors.UnknownError as error:
    print(json.dumps(str(error)))
"""


def test_dtensor_takes_the_stock_ops(answer):
    fused_error = answer(DTENSOR)
    assert "'tf.GroupNorm' op does not implement layout propagation" in fused_error


@pytest.mark.servers
def test_ray_train_on_two_workers(wheel, losses_of_one_process, tmp_path):
    python = environments.ray(wheel)
    log = tmp_path / "log"
    command = [python, EXAMPLES / "ray_train.py", "--workers", "2", "--epochs", "3"]
    variables = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    with environments.running(command, log, cwd=tmp_path, env=variables) as process:
        assert process.wait(300) == 0, log.read_text()[-4000:]
    (last,) = printed_json(log)
    assert last["replicas"] == 2
    np.testing.assert_allclose(last["losses"], losses_of_one_process, rtol=ROUNDING)
    assert list(tmp_path.rglob("model.weights.h5"))
