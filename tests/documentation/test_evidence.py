"""The page of evidence, and the README, say what the results of the study say."""

import json
import re

from paths import ROOT
from tfgn_study.report import tables

PAGE = (ROOT / "docs" / "evidence.md").read_text()
SUMMARY = json.loads((ROOT / "docs" / "evidence" / "results.json").read_text())


def test_tables_are_those_of_the_results():
    assert tables.by_batch_size(SUMMARY, tables.error_text) in PAGE
    assert tables.differences(SUMMARY) in PAGE
    rows = [line for line in tables.tuning(SUMMARY).splitlines() if line.startswith("|")]
    assert len(rows) > 10 and "\n".join(rows) in PAGE


def test_the_readme_states_errors_of_the_study():
    paragraph = re.search(r"evidence\.png.*?\n\n(.*?)\n\n", (ROOT / "README.md").read_text(), re.S)
    stated = set(re.findall(r"\d+\.\d%", paragraph[1]))
    assert len(stated) >= 4
    assert stated <= {f"{100 * cell['error']:.1f}%" for cell in SUMMARY["cells"]}
