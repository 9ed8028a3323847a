"""XLA as users meet it: Keras, saved models, clusters that TensorFlow forms, strategies.

Most run in an interpreter of their own. Keras, for one, does without XLA while determinism is
enabled, as it is here.
"""

import re

import numpy as np
import pytest
import small_resnet
import tensorflow as tf
from paths import SUPPORT, python_path
from small_resnet import IMAGES, LABELS, LOSS
from tensorflow.core.protobuf import saved_model_pb2


@pytest.fixture
def run_to_the_end(run_python):
    """Runs code in a fresh interpreter that can import `small_resnet`; returns what it printed."""

    def run(code, **environment):
        result = run_python(code, PYTHONPATH=python_path(SUPPORT), **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


KERAS_FIT = """
import keras, numpy as np, small_resnet
from keras.src.trainers.trainer import model_supports_jit
from small_resnet import IMAGES, LABELS, LOSS

def fit(jit):
    model = small_resnet.build()
    assert model_supports_jit(model)  # What "auto" asks where there is an accelerator.
    model.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=jit)
    history = model.fit(IMAGES, LABELS, batch_size=4, epochs=3, shuffle=False, verbose=0)
    assert model.jit_compile is jit
    return history.history["loss"], model.predict(IMAGES, batch_size=4, verbose=0)

# XLA rounds 16-bit convolutions elsewhere.
for policy, tolerance in ("float32", 1e-4), ("mixed_bfloat16", 1e-2), ("mixed_float16", 1e-2):
    keras.mixed_precision.set_dtype_policy(policy)
    (losses, predictions), expected = fit(jit=True), fit(jit=False)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, expected[0], rtol=tolerance)
    np.testing.assert_allclose(predictions, expected[1], atol=10 * tolerance)
    print(policy)
"""


def test_keras_fit(run_to_the_end):
    assert run_to_the_end(KERAS_FIT).split() == ["float32", "mixed_bfloat16", "mixed_float16"]


def test_a_step_has_all_its_norms_in_custom_calls():
    model = small_resnet.build()

    @tf.function(jit_compile=True)
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = LOSS(labels, model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    hlo = step.experimental_get_compiler_ir(IMAGES, LABELS)(stage="optimized_hlo")
    for op in ("GroupNorm", "GroupNormGrad", "StandardizeWeights", "StandardizeWeightsGrad"):
        assert hlo.count(f'custom_call_target="tfgn.{op}"') == 2
    assert not re.search(r"\br?sqrt\(", hlo)


LOAD_AND_RUN = """
import numpy as np, tensorflow as tf
{before}
model = tf.saved_model.load({path!r})
np.save({path!r} + "/y.npy", model.serve(np.load({path!r} + "/x.npy")))
"""


def test_saved_model_with_a_compiled_function(run_python, run_to_the_end, tmp_path):
    model = small_resnet.build()
    module = tf.Module()
    module.model = model
    module.serve = tf.function(
        lambda x: model(x, training=False),
        jit_compile=True,
        input_signature=[tf.TensorSpec([None, *IMAGES.shape[1:]])],
    )
    expected = module.serve(IMAGES)
    path = str(tmp_path)
    tf.saved_model.save(module, path)
    np.save(tmp_path / "x.npy", IMAGES)
    run_to_the_end(LOAD_AND_RUN.format(before="import tensorflow_groupnorm", path=path))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)

    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    compiled = [f for f in functions if f.attr["_XlaMustCompile"].b]
    assert any("GroupNorm" in {node.op for node in f.node_def} for f in compiled)

    without = run_python(LOAD_AND_RUN.format(before="", path=path))
    assert without.returncode != 0
    assert "Op type not registered 'StandardizeWeights'" in without.stderr


CLUSTERS = """
import numpy as np, small_resnet, tensorflow as tf
model = small_resnet.build()
model.set_weights(list(np.load({path!r} + "/weights.npz").values()))
np.save({path!r} + "/y.npy", tf.function(lambda x: model(x) * 2.0)(small_resnet.IMAGES))
"""


def test_clusters_that_tensorflow_forms(run_to_the_end, tmp_path):
    model = small_resnet.build()
    np.savez(tmp_path / "weights.npz", *model.get_weights())
    run_to_the_end(
        CLUSTERS.format(path=str(tmp_path)),
        TF_XLA_FLAGS="--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit --tf_xla_min_cluster_size=1",
        XLA_FLAGS=f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
    )
    y = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(y, 2 * model(IMAGES), rtol=1e-5, atol=1e-5)
    compiled = [file.read_text() for file in tmp_path.glob("*cluster*after_optimizations.txt")]
    for op in ("GroupNorm", "StandardizeWeights"):
        assert sum(hlo.count(f'custom_call_target="tfgn.{op}"') for hlo in compiled) == 2


# Keras' own fit with jit_compile=True fails on two logical devices of a CPU, whatever the layers:
# XLA then finds the second replica's variables on another device than the one it compiles for.
STRATEGY = """
import keras, numpy as np, small_resnet, tensorflow as tf
from small_resnet import IMAGES, LABELS

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

def losses(strategy, jit):
    with strategy.scope():
        model = small_resnet.build()
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit)
    def value_and_gradients(weights, images, labels):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, _ = model.stateless_call(weights, [], images)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(loss) / len(IMAGES)
        return loss, tape.gradient(loss, weights)

    def replica(images, labels):
        weights = [variable.value for variable in model.trainable_variables]
        loss, gradients = value_and_gradients(weights, images, labels)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    @tf.function
    def step(images, labels):
        return strategy.reduce("SUM", strategy.run(replica, (images, labels)), axis=None)

    data = tf.data.Dataset.from_tensors((IMAGES, LABELS)).unbatch().batch(len(IMAGES)).repeat(3)
    return [float(step(*batch)) for batch in strategy.experimental_distribute_dataset(data)]

two = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
expected = losses(tf.distribute.OneDeviceStrategy("/cpu:0"), jit=False)
assert expected[-1] < expected[0], expected
for jit in (False, True):
    np.testing.assert_allclose(losses(two, jit), expected, rtol=1e-5)
print(two.num_replicas_in_sync, "replicas")
"""


def test_mirrored_strategy_on_two_logical_devices(run_to_the_end):
    assert run_to_the_end(STRATEGY).endswith("2 replicas\n")


IMPORT_AFTER_XLA_COMPILED = """
import tensorflow as tf
tf.function(lambda x: x + 1.0, jit_compile=True)(1.0)
import tensorflow_groupnorm as tfgn
from paths import SUPPORT, python_path
x = tf.reshape(tf.range(64.0), [2, 4, 8])
y = tf.function(lambda x: tfgn.group_norm(x, groups=2), jit_compile=True)(x)
print(y.numpy().tobytes() == tfgn.group_norm(x, groups=2).numpy().tobytes())
"""


def test_import_after_xla_has_compiled_something(run_to_the_end):
    assert run_to_the_end(IMPORT_AFTER_XLA_COMPILED) == "True\n"
