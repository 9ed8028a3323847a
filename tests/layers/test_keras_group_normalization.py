"""Keras' own tests of GroupNormalization, from the installed wheel, run on the layer here."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

PLUGIN = """
import types
import keras
import keras.src.layers
import tensorflow_groupnorm as tfgn
from tensorflow_groupnorm.layers import _group_normalization

norm = tfgn.{function}
calls = []
def counted(*args, **kwargs):
    calls.append(args)
    return norm(*args, **kwargs)

_group_normalization.fused = types.SimpleNamespace(group_norm=counted)
for module in (keras.layers, keras.src.layers):
    module.GroupNormalization = tfgn.layers.GroupNormalization

def pytest_sessionfinish(session):
    assert calls, "the tests ran on another layer"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", ["group_norm", pytest.param("stock.group_norm", marks=pytest.mark.thorough)]
)
def test_keras_own_tests_pass(tmp_path, function):
    (tmp_path / "in_place_of_keras.py").write_text(PLUGIN.format(function=function))
    report = tmp_path / "report.xml"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "in_place_of_keras", "-p", "no:cacheprovider"]
        + [f"--rootdir={tmp_path}", f"--junitxml={report}", "--pyargs"]
        + ["keras.src.layers.normalization.group_normalization_test"],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    suite = ElementTree.parse(report).find("testsuite")
    not_passed = sum(int(suite.get(key)) for key in ("failures", "errors", "skipped"))
    assert int(suite.get("tests")) > 8
    assert not_passed == 0, run.stdout
