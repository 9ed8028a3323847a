"""The Python recipes of docs/, run as written, one after the other."""

import re

import numpy as np
import pytest
from paths import ROOT

DOCS = ROOT / "docs"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(), re.DOTALL):
        exec(code, names)
    assert names["exported"].custom_ops == () and names["exported"].difference < 1e-6
    images = np.ones([2, 32, 32, 3], np.float32)
    expected = names["keras"].saving.load_model("model.keras")(images)
    np.testing.assert_allclose(names["y"], expected, 1e-4, 1e-5)
    assert all(gradient is not None for gradient in names["gradients"])


def test_privacy():
    names = {}
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "privacy.md").read_text(), re.DOTALL)
    exec(code, names)
    assert [g.shape[0] for g in names["gradients"]] == [8] * len(names["variables"])
    expected = names["gradients_of"]((names["images"][3], names["labels"][3]))
    for actual, gradient in zip(names["gradients"], expected, strict=True):
        np.testing.assert_allclose(actual[3], gradient, 1e-3, 1e-5)
