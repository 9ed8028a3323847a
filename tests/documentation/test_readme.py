import re

import numpy as np
import pytest
from paths import ROOT

README = ROOT / "README.md"


def test_example_runs_and_trains():
    code, *_ = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    losses = names["model"].fit(images, np.arange(4), epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", README.read_text()))
def test_linked_file_exists(link):
    assert (README.parent / link).is_file()


def test_tables_name_what_there_is():
    import tensorflow_groupnorm as tfgn

    text = README.read_text()
    for name in [*tfgn.layers.__all__, *dir(tfgn.raw_ops), "group_norm", "standardize_weights"]:
        assert re.search(rf"[`.]{name}[`(]", text), name
