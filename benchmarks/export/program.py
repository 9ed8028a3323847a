"""The C++ program that runs SavedModels without Python: how it is built, and asked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "cpp"


def build(folder: Path, *options: str) -> Path:
    """Compiles the program against the installed TensorFlow.

    Args:
        folder: of the build. What is there and up to date is not built again.
        *options: for CMake.

    Returns:
        The path of the program.

    Raises:
        RuntimeError: if it cannot be built. The message says why.
    """
    cmake, ninja = _tool("cmake"), _tool("ninja")
    if cmake is None:
        raise RuntimeError("the C++ program cannot be built: there is no CMake (pip install cmake)")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    python = f"-DPython_EXECUTABLE={sys.executable}"
    for command in (
        [cmake, "-S", SOURCE, "-B", folder, *generator, python, *options],
        [cmake, "--build", folder],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = _reason(done.stderr + done.stdout)
            raise RuntimeError(f"the C++ program cannot be built: {reason}")
    return folder / "run_saved_model"


def _tool(name: str) -> str | None:
    """Returns a program of this Python's environment, or else of the system."""
    return shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)


def _reason(output: str) -> str:
    """Returns the first error of CMake or a compiler in a line."""
    cmake = re.search(r"^CMake Error(?: at .*:\n|:)\s*(.*)$", output, re.MULTILINE)
    compiler = re.search(r"\berror: .*$", output, re.MULTILINE)
    if cmake:
        return cmake[1]
    return compiler[0] if compiler else output.strip().rpartition("\n")[2]


class Program:
    """A process of the program. It ends when this object is deleted.

    Args:
        path: of the program.
        saved_model: with the signature `serving_default`, whose inputs and outputs are float32 and
            of known shapes.
        library: of its custom ops.
        threads: of an op.

    Raises:
        RuntimeError: if the model cannot be loaded.
    """

    def __init__(self, path: Path, saved_model: Path, library: str, threads: int):
        self._process = subprocess.Popen(
            [path, saved_model, library, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # Closes its input, at whose end the program ends.
        weakref.finalize(self, self._process.communicate)
        self._answer()

    def time(self, folder: Path) -> int:
        """Runs the model once.

        Args:
            folder: with a file of float32 numbers for each input, named like it. They are read
                once.

        Returns:
            Nanoseconds, without those of this request.
        """
        return int(self._ask("time", folder))

    def write(self, folder: Path) -> int:
        """Does as `time`, and writes the outputs as float32 numbers to files in the folder."""
        return int(self._ask("write", folder))

    def _ask(self, word: str, folder: Path) -> str:
        self._process.stdin.write(f"{word} {folder}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"the C++ program has ended with {self._process.wait()}")
        if answer.startswith("error: "):
            raise RuntimeError(answer.removeprefix("error: "))
        return answer
