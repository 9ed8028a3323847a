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
