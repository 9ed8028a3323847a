"""The first hour with the README: its commands and examples, in a fresh environment.

Run by `pytest -m thorough tests/newcomer`, in about 15 minutes and with 1 GB of downloads. The
package is built from these sources, or TFGN_WHEEL names a wheel. Nothing else of the repository is
at hand: neither its Python path nor its files, but for examples/, which the README points to.

What a newcomer sees is what is checked: exit codes, one sentence instead of a traceback, nothing
that TensorFlow logs, lines that fit into 80 columns.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from paths import EXAMPLES, ROOT

pytestmark = pytest.mark.thorough

README = (ROOT / "README.md").read_text()
WIDTH = 80

#: What follows a command of the README to make it take seconds, and what it needs.
SHORTER = {
    "study": ["--seeds", "0", "--batch-sizes", "4,64", "--epochs", "2"],
    "bench": ["--repeats", "2"],
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(program):
    """The README's commands of a program, as words, each once."""
    lines = [line for code in blocks("sh") for line in code.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


class Newcomer:
    """A person with a folder and an environment; what they type runs without a terminal."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "environment" / "bin"

    def types(self, *words, status=0):
        """Runs a command; returns its output and errors."""
        result = self._run(words)
        assert result.returncode == status, f"{words}\n{result.stdout}{result.stderr}"
        return result.stdout, result.stderr

    def tries(self, *words):
        """Runs a command; if it says what to install, does that and runs it again."""
        asked = re.search(r"pip install .*", (first := self._run(words)).stderr)
        if first.returncode == 0 or asked is None:
            assert first.returncode == 0, f"{words}\n{first.stdout}{first.stderr}"
            return first.stdout, first.stderr
        self.types(*shlex.split(asked[0]))
        return self.types(*words)

    def _run(self, words):
        environment = {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "HOME": os.fspath(self.folder),
            "COLUMNS": str(WIDTH),
            "TFGN_CUDA": "OFF",
        }
        start = time.monotonic()
        result = subprocess.run(
            list(map(os.fspath, words)),
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3600,
        )
        print(f"{time.monotonic() - start:6.1f} s  {shlex.join(map(os.fspath, words))}")
        assert "Traceback" not in result.stderr, f"{words}\n{result.stderr}"
        return result

    def runs(self, code, **options):
        """Runs Python code as a file."""
        path = self.folder / "snippet.py"
        path.write_text(code)
        return self.types("python", path, **options)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    person = Newcomer(tmp_path_factory.mktemp("newcomer"))
    subprocess.run([sys.executable, "-m", "venv", person.folder / "environment"], check=True)
    # The first command of the section on the installation.
    _, _, section = README.partition("## Installation")
    install = shlex.split(re.search(r"^pip install .*", section, re.MULTILINE)[0], comments=True)
    source = os.environ.get("TFGN_WHEEL", os.fspath(ROOT))
    person.types(*(re.sub(r"^\.(?=\[|$)", lambda _: source, word) for word in install))
    return person


@pytest.fixture(scope="module")
def model(newcomer):
    """The file model.keras of the README's commands: its first example, trained a step."""
    newcomer.runs(
        f"{blocks('python')[0]}\n"
        "import numpy as np\n"
        "model.fit(np.ones([4, 32, 32, 3], np.float32), np.arange(4), verbose=0)\n"
        "model.save('model.keras')\n"
    )
    photos = "import keras, numpy as np\nfor i in range(12):\n"
    photos += "    image = np.random.rand(40, 40, 3)\n"
    photos += "    keras.utils.save_img(f'photos/{i}.png', image)\n"
    (newcomer.folder / "photos").mkdir()
    newcomer.runs(photos)
    return newcomer.folder / "model.keras"


def is_quiet(errors):
    """Nothing of what TensorFlow logs: its lines have a level and a date, or are warnings."""
    return not re.search(r"^[IWEF]\d{4} |^WARNING|cuInit|oneDNN", errors, re.MULTILINE)


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_examples_run_as_they_are(newcomer, index):
    newcomer.runs(blocks("python")[index])


@pytest.mark.parametrize("words", commands("tfgn"), ids=shlex.join)
def test_commands_of_the_readme(newcomer, model, words):
    if "--memory" in words:  # Searching for the largest batch takes minutes.
        at = words.index("--memory")
        words = words[:at] + words[at + 2 :]
        words[words.index("--image-size") + 1] = "32"
    words += SHORTER.get(words[1], [])
    output, errors = newcomer.tries(*words)
    assert is_quiet(errors), errors
    assert output


def test_study(newcomer):
    output, errors = newcomer.types("tfgn", "study", *SHORTER["study"])
    assert is_quiet(errors), errors
    # The answer comes before the report.
    assert re.search(r"^Batch", output, re.MULTILINE) and "tfgn-study/report.html" in output
    assert (newcomer.folder / "tfgn-study" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("command", ["study", "info", "bench", "convert", "fold", "export"])
def test_help_fits_into_the_terminal(newcomer, command):
    output, errors = newcomer.types("tfgn", command, "--help")
    assert not errors
    assert max(map(len, output.splitlines())) <= WIDTH


def test_a_file_says_what_to_import(newcomer, model):
    load = "import keras\nkeras.saving.load_model('model.keras')\n"
    path = newcomer.folder / "load.py"
    path.write_text(load)
    result = subprocess.run(
        [newcomer.bin / "python", path], cwd=newcomer.folder, capture_output=True, text=True
    )
    assert "Could not locate class 'tensorflow_groupnorm.layers." in result.stderr
    newcomer.runs(f"import tensorflow_groupnorm\n{load}")


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["convert", "missing.keras", "out.keras"], 2, "there is no file missing.keras"),
        (["convert", "photos", "out.keras"], 2, "photos is a folder, not a .keras or .h5 file"),
        (["convert", "fake.keras", "out.keras"], 1, "fake.keras is not a model"),
        (["export", "fake.keras", "new"], 1, "fake.keras is not a model"),
        (["bench", "model.keras"], 2, "argument --batch-size: MODEL needs it"),
        (["bench", "--json", "no/bench.json"], 2, "argument --json: there is no folder no"),
        (["study", "--batch-sizes", "0"], 2, "--batch-sizes must be at least 1; received 0"),
        (["study", "--data", "no"], 2, "--data must be a folder of class folders"),
    ],
)
def test_mistakes_get_one_sentence(newcomer, model, words, status, sentence):
    (newcomer.folder / "fake.keras").write_text("no model")
    before = set(newcomer.folder.iterdir())
    _, errors = newcomer.types("tfgn", *words, status=status)
    assert sentence in errors and errors.count("\n") == 1, errors
    assert set(newcomer.folder.iterdir()) == before


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("segmentation_2d.py", ["--epochs", "2", "--size", "32"]),
        ("segmentation_3d.py", ["--epochs", "2", "--size", "16", "--width", "8"]),
        ("convert_model.py", ["--epochs", "2", "--application", "MobileNet"]),
    ],
)
def test_examples_of_the_folder(newcomer, script, options):
    shutil.copy(EXAMPLES / script, newcomer.folder)
    output, _ = newcomer.types("python", script, *options)
    assert "Epoch 1/" in output
