"""The page of evidence, and the README, say what the results of the study say."""

import json
import re

import pytest
from paths import ROOT
from tfgn_study.report import tables

PAGE = (ROOT / "docs" / "evidence.md").read_text()


def results(name):
    return json.loads((ROOT / "docs" / "evidence" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["by_batch_size", "nine_norms"])
def test_tables_are_those_of_the_results(name):
    summary = results(name)
    assert tables.by_batch_size(summary, tables.error_text) in PAGE
    assert tables.differences(summary) in PAGE
    rows = [line for line in tables.tuning(summary).splitlines() if line.startswith("|")]
    assert len(rows) > 10 and set(rows) <= set(PAGE.splitlines())


def test_the_readme_states_errors_of_the_study():
    paragraph = re.search(r"evidence\.png.*?\n\n(.*?)\n\n", (ROOT / "README.md").read_text(), re.S)
    stated = set(re.findall(r"\d+\.\d%", paragraph[1]))
    assert len(stated) >= 4
    assert stated <= {f"{100 * cell['error']:.1f}%" for cell in results("by_batch_size")["cells"]}
