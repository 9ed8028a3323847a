"""Failures around an op: exhausted memory, cancelled calls, forks, killed workers.

Each test runs in a process of its own and checks how that process ends.
"""

import signal
import sys
import time

import environments
import pytest
from paths import EXAMPLES, SUPPORT, python_path
from workers import printed_json, worker_environments

# x, its gradients and w take 64 MiB each; less than that is left. TensorFlow retries an allocation
# for 10 s.
LITTLE_MEMORY = """
import json, os, resource
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

x, w = tf.ones([1, 512, 512, 64]), tf.ones([2**18, 64])
small = tf.reshape(tf.range(4096, dtype="float32"), [1, 8, 8, 64])
jit = tf.function(tfgn.group_norm, jit_compile=True, reduce_retracing=False)
calls = {
    "GroupNorm": lambda: tfgn.group_norm(x),
    "GroupNormGrad": lambda: tfgn.raw_ops.GroupNormGrad(
        dy=x, x=x, gamma=tf.ones([64]), beta=tf.ones([64]), mean=tf.zeros([1, 32]),
        rstd=tf.ones([1, 32]), side_input=[], rest=[], groups=32),
    "StandardizeWeights": lambda: tfgn.standardize_weights(w),
    "StandardizeWeightsGrad": lambda: tfgn.raw_ops.StandardizeWeightsGrad(
        dw_hat=w, w=w, gain=[], mean=tf.zeros([64]), rstd=tf.ones([64]), scale=1.0),
    "function": tf.function(lambda: tfgn.group_norm(x)),
    "jit": lambda: jit(x),
}
expected = tfgn.group_norm(small).numpy()
# The first call creates threads and compiled code. Their memory is not under test.
for call in calls.values():
    call()

def address_space():
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmSize"))) << 10

resource.setrlimit(resource.RLIMIT_AS, (address_space() + (160 << 20),) * 2)
blocks = []
try:
    while True:
        blocks.append(tf.zeros([2**23]))  # 32 MiB
except tf.errors.ResourceExhaustedError:
    del blocks[-1:]

answers = {}
for name in os.environ["CALLS"].split(","):
    try:
        calls[name]()
        answers[name] = "no error"
    except tf.errors.OpError as error:
        answers[name] = type(error).__name__
    np.testing.assert_array_equal(tfgn.group_norm(small), expected)
del blocks
answers["later"] = float(tf.reduce_max(tf.abs(calls["GroupNorm"]())))
print(json.dumps(answers))
"""


GRADIENTS_AND_GRAPHS = "GroupNormGrad,StandardizeWeights,StandardizeWeightsGrad,function,jit"


@pytest.mark.parametrize(
    "calls", ["GroupNorm", pytest.param(GRADIENTS_AND_GRAPHS, marks=pytest.mark.heavy)]
)
def test_no_memory(answer, calls):
    found = answer(LITTLE_MEMORY, CALLS=calls)
    assert found == dict.fromkeys(calls.split(","), "ResourceExhaustedError") | {"later": 0}


CANCELLED = """
import json
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

v1 = tf.compat.v1
with tf.Graph().as_default():
    x = tf.random.stateless_normal([2, 64, 64, 64], [1, 2])
    once = tfgn.group_norm(x)
    # Only the timeout of the session ends this loop. TensorFlow looks for a timeout where it
    # computes the condition, which must therefore not be a constant.
    forever = tf.while_loop(
        lambda y: tf.reduce_max(y) < 1e9, tfgn.group_norm, [x], shape_invariants=[x.shape])
    with v1.Session() as session:
        before = session.run(once)
        answers = []
        for _ in range(5):
            try:
                session.run(forever, options=v1.RunOptions(timeout_in_ms=300))
                answers.append("no error")
            except tf.errors.OpError as error:
                answers.append(type(error).__name__)
            np.testing.assert_array_equal(session.run(once), before)
print(json.dumps(answers))
"""


def test_cancelled_graph(answer):
    assert answer(CANCELLED) == ["DeadlineExceededError"] * 5


OTHER_OP_FAILS = """
import json
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

x = tf.random.stateless_normal([2, 64, 64, 64], [1, 2])
expected = tfgn.group_norm(x).numpy()

@tf.function
def beside(x, wrong):
    # The ops do not depend on each other: when one fails, others may still run.
    ours = [tfgn.group_norm(x * float(i)) for i in range(8)]
    failing = tf.debugging.assert_equal(wrong, 0, message="the other op")
    python = tf.py_function(lambda n: 1 // (1 - n), [wrong], "int32")
    return ours, python

answers = []
for wrong in [1, 0] * 10:
    try:
        ours, _ = beside(x, tf.constant(wrong))
        np.testing.assert_array_equal(ours[1], expected)
        answers.append("fine")
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError):
        answers.append("error")
    np.testing.assert_array_equal(tfgn.group_norm(x), expected)
print(json.dumps(answers))
"""


def test_failure_of_another_op(answer):
    assert answer(OTHER_OP_FAILS) == ["error", "fine"] * 10


# A child that is forked before the first op starts a thread pool of its own. After the first op, no
# child can run TensorFlow's ops, these or any others.
FORK = """
import json, os
import numpy as np
import tensorflow_groupnorm as tfgn

x = np.random.default_rng(0).normal(size=(2, 32, 32, 64)).astype("float32")
read, write = os.pipe()
child = os.fork()
value = None
try:
    value = tfgn.group_norm(x).numpy()
finally:
    if not child:
        if value is not None:
            os.write(write, value.astype("float64").sum(keepdims=True).tobytes())
            os._exit(0)
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert np.frombuffer(os.read(read, 8)) == value.astype("float64").sum()
print(json.dumps("both"))
"""


def test_fork_after_import(answer):
    assert answer(FORK) == "both"


# The native module keeps no threads after a call, so that a child can use it.
FORK_OF_NATIVE = """
import json, os
import numpy as np
from native_module import native

x = np.random.default_rng(0).normal(size=(2, 32, 32, 64)).astype("float32")
def norm():
    return native.group_norm_forward(x, groups=32, threads=2)[0].tobytes()
before = norm()
child = os.fork()
if not child:
    os._exit(norm() != before)
assert os.waitpid(child, 0)[1] == 0 and norm() == before
print(json.dumps("both"))
"""


def test_fork_after_a_kernel_ran(answer):
    assert answer(FORK_OF_NATIVE, PYTHONPATH=python_path(SUPPORT)) == "both"


WORKER = """
import multi_worker
import tensorflow as tf

training = multi_worker.Training(tf.distribute.MultiWorkerMirroredStrategy(), 16)
while True:
    print(training.run(epochs=1), flush=True)
"""


@pytest.mark.heavy
def test_killed_worker(tmp_path):
    """The other worker exits by itself once TensorFlow notices that the first is gone."""
    path = python_path(EXAMPLES / "distribution")
    command, logs = [sys.executable, "-c", WORKER], [tmp_path / "0.log", tmp_path / "1.log"]
    one, two = (v | {"PYTHONPATH": path} for v in worker_environments(2))
    with (
        environments.running(command, logs[0], env=one) as stays,
        environments.running(command, logs[1], env=two) as dies,
    ):
        deadline = time.monotonic() + 120
        while not (losses := printed_json(logs[1])) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert losses, "no epoch came to its end: " + logs[1].read_text()[-2000:]
        dies.send_signal(signal.SIGKILL)
        assert stays.wait(180) != 0
    assert "UnavailableError" in logs[0].read_text()
