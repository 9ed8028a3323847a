"""The C++ example: a SavedModel with the fused ops, served by a program without Python."""

import collections
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import small_resnet
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from paths import ROOT
from small_resnet import IMAGES
from tensorflow_groupnorm import _library

pytestmark = pytest.mark.compiles

SAMPLE = json.dumps(IMAGES[:1].tolist())


@pytest.fixture(scope="module")
def program():
    """The example, compiled against the installed TensorFlow."""
    # Kept, so that a second run compiles only what changed.
    build = ROOT / "build" / "serving-cpp"
    tools = Path(sys.executable).parent
    cmake = shutil.which("cmake", path=tools) or shutil.which("cmake")
    ninja = shutil.which("ninja", path=tools) or shutil.which("ninja")
    for command in (
        [
            *(cmake, "-S", ROOT / "examples" / "serving_cpp", "-B", build, "-G", "Ninja"),
            *(f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"),
            # Optimizing takes as long again to compile.
            *("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0 -Werror"),
        ],
        [cmake, "--build", build],
    ):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return build / "serving_cpp"


@pytest.fixture(scope="module")
def op_library():
    """The op library that this process has loaded."""
    (path,) = (p for p in _library._mapped_files() if p.name.startswith("_tfgn_ops"))
    return path


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("small_resnet")
    small_resnet.build().export(path, verbose=False)
    return path


@pytest.fixture
def serve(program, op_library, saved_model):
    """Serves lines: `serve(lines, options) -> CompletedProcess`; without an option: None."""

    def run(requests=(), **options):
        options = {"library": op_library, "model": saved_model} | options
        arguments = [(f"--{k.replace('_', '-')}", v) for k, v in options.items() if v is not None]
        return subprocess.run(
            [program, *(word for pair in arguments for word in pair)],
            input="".join(f"{request}\n" for request in requests),
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def last_line(text):
    return text.splitlines()[-1]


def errors(answers):
    return [json.loads(line).get("error") for line in answers.splitlines()]


def test_answers_are_those_of_python(program, op_library, saved_model):
    served = tf.saved_model.load(saved_model).signatures["serving_default"]
    (name,) = served.structured_input_signature[1]
    with subprocess.Popen(
        [program, "--library", op_library, "--model", saved_model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        # One after the other: an answer is there before the next request is.
        for batch in (IMAGES[:1], IMAGES, IMAGES[:0]):
            server.stdin.write(json.dumps(batch.tolist()) + "\n" if len(batch) else "[]\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            if len(batch):
                (expected,) = served(**{name: tf.constant(batch)}).values()
                np.testing.assert_array_equal(np.float32(answer), expected)
            else:
                assert answer["error"].endswith("must have the shape [?,8,8,3], but has [0]")
        server.stdin.close()
        assert server.wait(60) == 0


def test_bad_requests_are_refused_in_a_sentence_and_the_next_is_served(serve):
    refused = {
        "": "expected '[' at column 1",
        "GET / HTTP/1.1": "expected '[' at column 1",
        SAMPLE[: len(SAMPLE) // 2]: "a request is one line with a nested list of numbers",
        SAMPLE + "]": "expected the end of the line",
        "[1, null]": "expected a number at column 5",
        "[NaN]": "expected a number at column 2",
        "[-inf]": "expected a number at column 2",
        '["1"]': "expected a number at column 2",
        "[1e39]": "the number at column 2 is out of the range of float32",
        "[[1, 2], [3]]": "the lists of one depth must be equally long",
        "[" * 9 + "]" * 9: "lists may be nested 8 deep at most",
        json.dumps(IMAGES[0].tolist()): "must have the shape [?,8,8,3], but has [8,8,3]",
        json.dumps(IMAGES[:, :4].tolist()): "must have the shape [?,8,8,3], but has [16,4,8,3]",
        json.dumps((IMAGES[:1] * 1e38).tolist()): "the answer holds NaN or infinity",
    }
    lines = [line for request in refused for line in (request, SAMPLE)]
    result = serve(lines)
    assert result.returncode == 0
    answers = result.stdout.splitlines()
    assert len(answers) == len(lines)
    assert len(set(answers[1::2])) == 1 and np.shape(json.loads(answers[1])) == (1, 4)
    for message, sentence in zip(answers[::2], refused.values(), strict=True):
        assert sentence in json.loads(message)["error"]


def nested_list(rng, depth):
    """Returns a list, mostly one whose lists of one depth are equally long."""
    sizes = [rng.randrange(3) for _ in range(depth)]

    def part(axis):
        axis += rng.random() < 0.01
        if axis >= depth:
            return rng.choice([0, -7, 12])
        return [part(axis + 1) for _ in range(sizes[axis] + (rng.random() < 0.01))]

    return [part(1) for _ in range(sizes[0])]


def test_lists_are_read_as_python_reads_them(serve):
    rng = random.Random(0)
    lines = [json.dumps(nested_list(rng, rng.randrange(1, 5))) for _ in range(1000)]
    # The same with a character too few.
    lines += [line[:i] + line[i + 1 :] for line in lines for i in [rng.randrange(len(line))]]
    lines += ["[1,[2]]", "[[1],2]", "[[],1]", "[1,[]]", "[[],[]]", "[[],[[]]]", "[[[]],[]]"]
    kinds = collections.Counter()
    for line, error in zip(lines, errors(serve(lines).stdout), strict=True):
        try:
            array = np.asarray(json.loads(line))
        except json.JSONDecodeError:
            kinds["broken"] += 1
            assert error and "must have the shape" not in error, line
        except ValueError:
            kinds["ragged"] += 1
            assert error.startswith("the lists of one depth must be equally long"), line
        else:
            kinds["array"] += 1
            shape = ",".join(map(str, array.shape))
            assert error == f"the input must have the shape [?,8,8,3], but has [{shape}]", line
    assert len(kinds) == 3 and min(kinds.values()) > 20, kinds


def test_missing_op_library_is_said_in_one_sentence(serve):
    result = serve([SAMPLE], library=None)
    assert result.returncode == 1 and result.stdout == ""
    assert last_line(result.stderr) == (
        "serving_cpp: the model needs the op StandardizeWeights, which no loaded library has: "
        "name the library that does with --library"
    )


@pytest.mark.parametrize(
    ("options", "exit_code", "sentence"),
    [
        ({"model": "/nowhere"}, 1, "there is no SavedModel in /nowhere"),
        ({"library": "/nowhere.so"}, 1, "the op library cannot be loaded: /nowhere.so"),
        ({"signature": "train"}, 1, "the model has no signature train; it has: "),
        ({"probe_shape": "1x9x9x3"}, 1, "the input must have the shape [?,8,8,3], but has [1,9,"),
        ({"probe_shape": "1xx3"}, 2, "--probe-shape must be sizes such as 1x224x224x3, but is 1xx"),
        ({"model": None}, 2, "--model is missing (see --help)"),
        ({"port": "80"}, 2, "unknown argument --port (see --help)"),
    ],
)
def test_refuses_to_start_in_one_sentence(serve, options, exit_code, sentence):
    result = serve(**options)
    assert result.returncode == exit_code and result.stdout == ""
    assert last_line(result.stderr).startswith(f"serving_cpp: {sentence}")


def test_model_of_open_size_is_probed_with_the_size_given(serve, tmp_path):
    inputs = keras.Input((None, None, 4))
    outputs = tfgn.layers.GroupNormalization(2)(inputs)
    keras.Model(inputs, outputs).export(tmp_path, verbose=False)
    refused = serve(model=tmp_path)
    assert refused.returncode == 1
    assert last_line(refused.stderr).endswith("[?,?,?,4]: pass the one to try with --probe-shape")
    x = np.float32([[[[1, 2, 3, 5]]]])
    result = serve([json.dumps(x.tolist())], model=tmp_path, probe_shape="1x2x2x4")
    assert last_line(result.stderr).startswith("serving_cpp: ready")
    np.testing.assert_array_equal(
        np.float32(json.loads(result.stdout)), tfgn.group_norm(x, groups=2)
    )


def test_help_names_every_option(program):
    result = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    for option in ("--model", "--library", "--signature", "--probe-shape"):
        assert f"\n  {option} " in result.stdout


def test_op_library_needs_of_tensorflow_only_the_framework(op_library):
    dynamic = subprocess.run(
        ["readelf", "--dynamic", op_library], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert {name for name in needed if "tensorflow" in name} == {"libtensorflow_framework.so.2"}
