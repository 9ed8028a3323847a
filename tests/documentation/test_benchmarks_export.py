"""The tables of the section `export` of the benchmarks; what it measures is not tested."""

import json

import pytest

from benchmarks import report
from benchmarks.cases import Inference
from benchmarks.export.contenders import CONTENDERS, FUSED, FUSED_CPP, TORCH_COMPILED
from benchmarks.results import Results
from benchmarks.sections import Entry

#: Milliseconds and nodes that meet all targets.
MET = {
    FUSED: (40, None),
    "ONNX Runtime, onnxruntime": (43, 419),
    "ONNX Runtime, onnx": (50, 174),
    "ONNX Runtime, primitive": (54, 2719),
    "ONNX Runtime, torch": (43, 588),
    "OpenVINO, openvino": (41, 174),
    "OpenVINO, primitive": (52, 2719),
    "OpenVINO, torch": (41, 588),
}


def verdicts(**changes):
    """The last cells of the table, by contender, after a round trip through JSON."""
    results = Results({"command": "", "date": "", "rounds": 1, "machine": {}, "versions": {}})
    case = Inference("bit", 1)
    for name in CONTENDERS:
        ms, nodes = changes.get(name, MET.get(name, (90, None)))
        if ms:
            results.times["export", Entry(name, case)] = [1e6 * ms]
        if nodes:
            results.nodes[Entry(name, case)] = nodes
    read = Results.from_json(json.loads(json.dumps(results.to_json())))
    lines = report.markdown(read, notes="").partition("## Latency of exports")[2].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    return {row[0]: row[-1] for row in cells if row[0] in CONTENDERS}


def test_targets_that_are_met():
    judged = {FUSED, *(name for name in MET if name.endswith(("onnxruntime", "onnx", "openvino")))}
    expected = {name: "met" if name in judged else "" for name in CONTENDERS}
    assert verdicts() == expected
    # The same SavedModel without Python is no rival.
    assert verdicts(**{FUSED_CPP: (39, None)}) == expected


@pytest.mark.parametrize(
    ("name", "measured", "missed", "why"),
    [
        (TORCH_COMPILED, (39, None), FUSED, "not the fastest"),
        ("OpenVINO, torch", (40, 588), "OpenVINO, openvino", "1.02 of torch"),
        ("OpenVINO, torch", (None, None), "OpenVINO, openvino", "not measured"),
        ("ONNX Runtime, primitive", (53, 2719), "ONNX Runtime, onnxruntime", "0.8 of primitive"),
        ("ONNX Runtime, onnx", (50, 765), "ONNX Runtime, onnx", "1.3 of torch's nodes"),
    ],
)
def test_target_that_is_missed(name, measured, missed, why):
    assert verdicts(**{name: measured})[missed] == f"**missed**: {why}"
