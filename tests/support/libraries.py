"""Small shared objects that link what a test says."""

import functools
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def library(needed, runpath=(), code=""):
    """A library of some C++ code, what it links and where it looks for that."""
    compile_ = ["g++", "-shared", "-fPIC", "source.cc", "-Wl,--no-as-needed"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "source.cc").write_text(code)
        for name in needed:
            soname = f"-Wl,-soname,{name}"
            subprocess.run([*compile_, soname, "-o", name], cwd=folder, check=True)
        places = [f"-Wl,-rpath,{':'.join(runpath)}"] if runpath else []
        subprocess.run([*compile_, *places, *needed, "-o", "library"], cwd=folder, check=True)
        return Path(folder, "library").read_bytes()
