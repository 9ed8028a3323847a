"""The benchmarks run and report; what they measure is not tested."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT

pytestmark = pytest.mark.slow  # Each test starts processes that import TensorFlow.


def run(*arguments):
    return python("-m", "benchmarks", *arguments)


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def rows(report, title):
    """The rows of the first table behind a title, as dictionaries, by their first cell."""
    _, found, text = report.partition(title)
    assert found, report
    lines = text[text.index("\n| ") + 1 :].split("\n\n")[0].splitlines()
    header, _, *cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {row[0]: dict(zip(header, row, strict=True)) for row in cells}


def test_a_section_from_measuring_to_report(tmp_path):
    result = run(
        *("--only", "ladder", "--shapes", "2x8x8x32", "--rounds", "2", "--output", str(tmp_path))
    )
    assert result.returncode == 0, result.stderr
    report = (tmp_path / "RESULTS.md").read_text()
    assert "| 2x8x8x32 |" in report
    assert "**Forward + backward**" in report
    _, compiled = report.split("### Compiled by XLA")
    for title in ("**Forward**", "**Forward + backward**"):
        row = rows(compiled, title)["2x8x8x32"]
        assert all(float(row[name]) > 0 for name in ("op jit", "op jit / op", "keras jit / op jit"))
    assert (tmp_path / "plots" / "ladder.png").stat().st_size > 10_000
    json.loads((tmp_path / "results.json").read_text())

    (tmp_path / "RESULTS.md").unlink()
    assert run("--render", "--output", str(tmp_path)).returncode == 0
    assert (tmp_path / "RESULTS.md").read_text() == report


def row_of(section, kind, contender, ms, **case):
    ns = [ms * 1e6]
    return {"section": section, "contender": contender, "kind": kind, "case": case, "ns": ns}


def times():
    """Of each section with contenders under jit: by case, contender and milliseconds."""
    shapes = {
        (2, 8, 32): {"op": 1, "op jit": 1.04, "keras jit": 3},
        (2, 16, 32): {"op": 1, "op jit": 1.06, "keras jit": 3},
        (2, 32, 32): {"op": 1, "op jit": 1, "keras jit": 0.99},
    }
    for shape, contenders in shapes.items():
        for contender, ms in contenders.items():
            yield row_of("shapes", "Norm", contender, ms, shape=shape)
    for backward, op_jit in ((False, 1.06), (True, 1)):
        for contender, ms in {"op": 1, "op jit": op_jit, "composite jit": 2}.items():
            yield row_of("weights", "Weights", contender, ms, backward=backward)
    for norm, ms in {"bn": 400, "gn+ws": 600, "ours": 380}.items():
        yield row_of("step", "Step", "step", ms, norm=norm)
    for norm, ms in {"bn": 400, "gn+ws": 600, "ours": 500}.items():
        yield row_of("step", "Step", "step", ms, norm=norm, jit=True)


def rendered(folder, times, memory):
    environment = {"command": "", "date": "", "rounds": 1, "machine": {}, "versions": {}}
    content = {"times": times, "memory": memory, "accuracy": [], "skipped": []}
    (folder / "results.json").write_text(json.dumps(content | {"environment": environment}))
    result = run("--render", "--output", str(folder))
    assert result.returncode == 0, result.stderr
    return (folder / "RESULTS.md").read_text()


def test_verdicts_of_what_is_compiled(tmp_path):
    report = rendered(tmp_path, [*times()], [])
    _, targets = report.split("## Targets")
    limits, _ = targets.split("| target |")
    for target in ("op jit", "kernel", "step"):
        assert f"- **{target}:** " in limits
    compiled = rows(report, "### Compiled by XLA")
    assert compiled["2x8x32"]["verdict"] == "met"
    assert compiled["2x8x32"]["op jit / op"] == "1.04"
    assert compiled["2x16x32"]["verdict"] == "**missed**: op"
    assert compiled["2x32x32"]["verdict"] == "**missed**: keras jit"
    assert rows(report, "## Weight stand")["op jit"]["verdict"] == "**missed**: op (forward)"

    steps = rows(report, "## Training step")
    assert steps["ours GN + WS"]["verdict"] == "met"
    assert steps["ours GN + WS, jit"] == {
        "": "ours GN + WS, jit",
        "ms": "500",
        "over BN": "1.25",
        "over Keras GN + WS": "0.83",
        "verdict": "**missed**: BN",
    }


def test_the_time_of_a_call_is_that_of_one_op(tmp_path):
    times = [
        row_of("calls", "Calls", contender, ms, backward=backward, length=500)
        for backward in (False, True)
        for contender, ms in {"op": 2, "floor": 1}.items()
    ]
    forward = rows(rendered(tmp_path, times, []), "## Calls")["1x2x2x64, forward"]
    assert forward["op, µs"] == "4.00"
    assert forward["leaky ReLU, µs"] == "2.00"


def test_verdicts_of_sizes(tmp_path):
    cost = {512: 1, 1024: 1.2, 2048: 1.3, 4096: None}  # of a byte
    sizes = []
    for side, ms in {2: 9, **cost}.items():
        case = {"shape": (1, side, side, 64)}
        sizes.append(row_of("scaling", "Norm", "copy", side**2, **case))
        for backward in (False, True) if ms else ():
            sizes.append(
                row_of("scaling", "Norm", "kernel", ms * side**2, backward=backward, **case)
            )
    report = rendered(tmp_path, sizes, [])
    linear = rows(report, "Nanoseconds per kilobyte")
    verdicts = {shape: row["verdict"] for shape, row in linear.items()}
    assert verdicts == {
        "1x2x2x64": "",
        "1x512x512x64": "met",
        "1x1024x1024x64": "met",
        "1x2048x2048x64": "**missed**: forward, forward + backward",
        "1x4096x4096x64": "**missed**: not measured",
    }


#: MiB of the weights and of a further image, and the milliseconds of a step.
MEMORY = {"bn": (500, 80, 1000), "gn+ws": (550, 90, 1500), "ours": (560, 78, 990)}


def memory_of(saving, **case):
    """The times and peaks of the steps of a section, those with `save_memory` as given."""
    steps = MEMORY | {"saving": saving}
    times = [
        row_of("memory", "Step", "step", ms, norm=norm, batch=8, **case)
        for norm, (_, _, ms) in steps.items()
    ]
    peaks = [
        {"case": {"norm": norm, "batch": batch, **case}, "bytes": (fixed + batch * each) << 20}
        for norm, (fixed, each, _) in steps.items()
        for batch in (24, 2, 8)
    ]
    return times, peaks


def test_verdicts_of_memory(tmp_path):
    bfloat16 = {"dtype": "mixed_bfloat16"}
    met = memory_of((520, 48, 1000))
    missed = memory_of((620, 49, 1020), jit=True)
    half = memory_of((520, 29, 500), **bfloat16)
    times, peaks = (sum(both, []) for both in zip(met, missed, half, strict=True))
    block = {"network": "diffusion", "side": 64, "batch": 4}
    for norm, mib in {"bn": 200, "gn+ws": 190, "ours": 110, "saving": 100}.items():
        times.append(row_of("memory", "Step", "step", 10, norm=norm, **block))
        peaks.append({"case": {"norm": norm, **block}, "bytes": mib << 20})
    report = rendered(tmp_path, times, peaks)
    assert rows(report, "**ResNet50V2, float32**")["ours GN + WS, save_memory"] == {
        "": "ours GN + WS, save_memory",
        "batch 2, MiB": "616",
        "batch 8, MiB": "904",
        "batch 24, MiB": "1672",
        "over BN": "1.00",  # The last of the columns of that name: of the time.
        "MiB per image": "48.0",
        "step, ms": "1000",
        "over ours": "1.01",
        "verdict": "met",
    }
    row = rows(report, "**ResNet50V2, float32, jit**")["ours GN + WS, save_memory"]
    assert row["verdict"] == (
        "**missed**: time of ours, 0.61 of BN per image, BN at batch 2, 0.7 of BN at batch 24"
    )
    row = rows(report, "**ResNet50V2, mixed_bfloat16**")["ours GN + WS, save_memory"]
    assert row["verdict"] == "**missed**: 0.35 of float32 BN per image"
    row = rows(report, "**Block of a diffusion U-Net, float32**")["ours GN, save_memory"]
    assert (row["batch 4, MiB"], row["verdict"]) == ("100", "met")
    assert (tmp_path / "plots" / "memory.png").stat().st_size > 10_000


def test_memory_that_was_not_measured_misses_its_targets(tmp_path):
    times, _ = memory_of((520, 48, 1000))
    row = rows(rendered(tmp_path, times, []), "**ResNet50V2, fl")["ours GN + WS, save_memory"]
    assert (row["batch 8, MiB"], row["MiB per image"]) == ("-", "-")
    assert row["verdict"] == "**missed**: not measured"


def test_results_of_before_anything_was_compiled(tmp_path):
    old = [t for t in times() if t["contender"] != "op jit" and "jit" not in t["case"]]
    report = rendered(tmp_path, old, {"ours": 3 << 20})
    row = rows(report, "### Compiled by XLA")["2x8x32"]
    assert (row["op jit, µs"], row["op jit / op"]) == ("-", "-")
    assert row["verdict"] == "**missed**: not measured"
    assert rows(report, "## Weight stand")["op jit"]["forward, ms"] == "-"
    steps = rows(report, "## Training step")
    assert steps["ours GN + WS"]["ms"] == "380"
    assert steps["ours GN + WS, jit"]["ms"] == steps["BN, jit"]["ms"] == "-"


def test_a_quick_run_compiles_no_step():
    code = """if True:
        from benchmarks import run
        for group in run._groups(["step"], (), quick=True):
            print(*(entry.case.text for entry in group.entries), sep=";")
    """
    assert python("-c", code).stdout == "BN;ours GN + WS\n"


@pytest.mark.thorough
def test_save_memory_computes_the_step_of_every_network():
    code = """if True:
        import keras
        from benchmarks.cases import Step
        from benchmarks.frameworks import tensorflow
        from benchmarks.inputs import draw
        for network, side in {"resnet50v2": 64, "unet3d": 8, "diffusion": 8}.items():
            for norm in ("ours", "saving"):
                keras.utils.set_random_seed(0)
                case = Step(norm, batch=1, side=side, network=network)
                step = tensorflow.function("step", case)
                inputs = tensorflow.load(case, draw(case, seed=0))
                print(*(step(inputs) for _ in range(2)))
    """
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
    losses = [[float(loss) for loss in line.split()] for line in result.stdout.splitlines()]
    assert len(losses) == 6 and all(first != second for first, second in losses)
    for plain, saving in zip(losses[::2], losses[1::2], strict=True):
        assert saving == pytest.approx(plain, rel=1e-5)


@pytest.mark.thorough
def test_the_step_is_compiled_to_the_same_step():
    code = """if True:
        import keras
        from benchmarks.cases import Step
        from benchmarks.frameworks import tensorflow
        from benchmarks.inputs import draw
        for jit in (False, True):
            keras.utils.set_random_seed(0)
            case = Step("ours", batch=1, side=32, jit=jit)
            print(tensorflow.function("step", case)(tensorflow.load(case, draw(case, seed=0))))
    """
    result = python("-c", code, TF_CPP_MIN_LOG_LEVEL="0")
    assert result.returncode == 0, result.stderr
    graph, compiled = map(float, result.stdout.split())
    assert compiled == pytest.approx(graph, rel=1e-5)
    assert "Compiled cluster using XLA" in result.stderr


def test_results_are_added_to_earlier_ones():
    code = """if True:
        from benchmarks.cases import Calls, Norm, Step
        from benchmarks.results import Results
        from benchmarks.sections import Entry
        def results(command, times, memory):
            environment = {"command": command, "date": "", "rounds": 1, "machine": {}}
            return Results(environment | {"versions": {command: "1"}}, times, memory)
        ladder, step = Entry("op", Norm((2, 8, 32))), Entry("step", Step("bn"))
        old = results("a", {("ladder", ladder): [1.0], ("memory", step): [2.0]}, {step.case: 3})
        other = Entry("step", Step("bn", network="unet3d"))
        old.times["memory", other] = [5.0]
        again = Entry("step", Step("ours"))
        new = results("b", {("memory", again): [4.0]}, {}).added_to(old)
        kept = {("ladder", ladder): [1.0], ("memory", other): [5.0]}
        assert new.times == kept | {("memory", again): [4.0]}
        assert new.memory == {step.case: 3}
        assert new.environment["command"] == "b"
        assert [run["command"] for run in new.environment["before"]] == ["a"]
        assert new.environment["versions"] == {"a": "1", "b": "1"}
        print("as expected")
    """
    result = python("-c", code)
    assert result.stdout == "as expected\n", result.stderr


def test_results_of_another_machine_are_not_added_to(tmp_path):
    rendered(tmp_path, [], [])
    result = run("--add", "--output", str(tmp_path), "--only", "calls", "--quick")
    assert result.returncode == 2
    assert f"the results in {tmp_path} are those of another machine" in result.stderr


def test_refusals_name_the_argument(tmp_path):
    for arguments, words in (
        (["--only", "everything"], "everything"),
        (["--shapes", "2x8xchannels"], "2x8xchannels"),
        (["--render", "--output", str(tmp_path / "nothing")], "results.json"),
        (["--add", "--output", str(tmp_path / "nothing")], "results.json"),
    ):
        result = run(*arguments)
        assert result.returncode == 2, result.stderr
        assert words in result.stderr
        assert "Traceback" not in result.stderr


def test_gpu_benchmarks_refuse_in_one_sentence_where_there_is_no_gpu():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert result.stderr.startswith("benchmarks.gpu: ")
    assert result.stderr.count("\n") == 1
    help_text = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "--build-folder" in help_text.stdout


def test_stock_ops_are_not_measured_as_ours(tmp_path):
    # Every process finds the package, and neither its libraries nor the module of the kernels.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.resources, pathlib, sys\n"
        "sys.modules['tensorflow_groupnorm._native'] = None\n"
        f"importlib.resources.files = lambda package: pathlib.Path({str(tmp_path)!r})\n"
    )
    for framework, cause in (("kernels", "./dev setup"), ("tensorflow", "Reinstall the package")):
        code = f"from benchmarks import rounds; rounds.Workers().get({framework!r})"
        error = python("-c", code, PYTHONPATH=str(tmp_path)).stderr.splitlines()[-1]
        assert f"WorkerError: {framework} cannot be measured: " in error and cause in error
