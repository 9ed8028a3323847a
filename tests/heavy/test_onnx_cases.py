"""ONNX's backend cases of GroupNormalization, whose data is in the wheel of onnx 1.17."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn

CASES = "onnx/backend/test/data/node/test_group_normalization_"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version=3.11", "--platform=manylinux2014_x86_64", "onnx==1.17.0"]
    result = subprocess.run([*command, "-d", folder], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("onnx-1.17.0-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.heavy
def test_every_case(wheel):
    onnx = pytest.importorskip("onnx")
    folders = sorted({name.split("/")[5] for name in wheel.namelist() if name.startswith(CASES)})
    # The expanded ones are the same data for the operator's definition by others.
    assert folders == [
        f"test_group_normalization_{name}"
        for name in ("epsilon", "epsilon_expanded", "example", "example_expanded")
    ]
    for folder in folders:
        path = f"onnx/backend/test/data/node/{folder}"

        def array(name, path=path):
            tensor = onnx.TensorProto.FromString(wheel.read(f"{path}/test_data_set_0/{name}.pb"))
            return onnx.numpy_helper.to_array(tensor)

        plain = path.removesuffix("_expanded")
        model = onnx.ModelProto.FromString(wheel.read(f"{plain}/model.onnx"))
        (node,) = model.graph.node
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        x, scale, bias = (tf.constant(array(f"input_{i}")) for i in range(3))
        y = tfgn.group_norm(
            *(x, scale, bias, attributes["num_groups"]),
            axis=1,
            epsilon=attributes.get("epsilon", 1e-5),
        )
        np.testing.assert_allclose(y, array("output_0"), rtol=1e-5, atol=1e-6)
