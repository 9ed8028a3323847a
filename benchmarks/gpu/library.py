"""The CUDA kernels, built by nvcc alone and called on torch tensors."""

from __future__ import annotations

import ctypes
import hashlib
import math
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
KERNELS = ROOT / "cc" / "kernels"
SOURCES = (
    *(
        KERNELS / f"{name}.cc"
        for name in ("cuda/plan", "dims", "group_norm", "standardize_weights")
    ),
    *sorted((KERNELS / "cuda").glob("*.cu")),
    FOLDER / "interface.cc",
)
DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
ACTIVATIONS = ("linear", "relu", "silu")
ABSENT, PER_CHANNEL, PER_SAMPLE = 0, 1, 2


class BuildError(Exception):
    """The kernels cannot be built; the message is one sentence, or the compiler's output."""


class CudaError(Exception):
    """A call to the library failed."""


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "a", "c", "b", "groups")),
        ("epsilon", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("activation", "gamma", "beta", "has_side_input")),
    ]


class _Tensors(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_void_p * 11)]


def _tensors(*tensors: torch.Tensor | None) -> _Tensors:
    pointers = [t.data_ptr() if t is not None and t.numel() else None for t in tensors]
    return _Tensors((ctypes.c_void_p * 11)(*pointers))


class GroupNorm(NamedTuple):
    """The arguments of the kernels besides tensors. `axis` is not negative."""

    shape: tuple[int, ...]
    axis: int
    groups: int
    epsilon: float = 1e-3
    activation: str = "linear"
    gamma: int = PER_CHANNEL
    beta: int = PER_CHANNEL
    side: bool = False

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    def affine_shape(self, affine: int) -> tuple[int, ...]:
        return {ABSENT: (0,), PER_CHANNEL: (self.channels,)}.get(
            affine, (self.shape[0], self.channels)
        )

    def view(self) -> _Shape:
        return _Shape(
            self.shape[0],
            math.prod(self.shape[1 : self.axis]),
            self.channels,
            math.prod(self.shape[self.axis + 1 :]),
            self.groups,
            self.epsilon,
            ACTIVATIONS.index(self.activation),
            self.gamma,
            self.beta,
            self.side,
        )


class Library:
    """The shared library. Calls run on torch's current stream.

    `device` is where its tensors are: "cpu" where the kernels' device is emulated.
    """

    def __init__(self, path: Path, device: str = "cuda"):
        self.device = device
        self._library = ctypes.CDLL(str(path))
        for name in ("workspace", "forward", "backward"):
            getattr(self._library, f"tfgn_group_norm_{name}").restype = ctypes.c_char_p
        self._library.tfgn_standardize_weights.restype = ctypes.c_char_p

    def workspace(self, norm: GroupNorm, dtype: torch.dtype) -> torch.Tensor:
        """Allocates scratch memory for the forward and the backward pass."""
        size = ctypes.c_int64()
        view = norm.view()
        self._check(
            self._library.tfgn_group_norm_workspace(
                DTYPES[dtype], ctypes.byref(view), ctypes.byref(size)
            )
        )
        return torch.empty(size.value, dtype=torch.uint8, device=self.device)

    def synchronize(self):
        """Waits until all calls have finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self, norm, workspace, x, gamma, beta, side, y, mean, rstd):
        self._call("forward", norm, x.dtype, workspace, x, gamma, beta, side, y, mean, rstd)

    def backward(self, norm, workspace, dy, x, gamma, beta, mean, rstd, side, *outputs):
        """Outputs: dx, dgamma, dbeta, dside."""
        tensors = (dy, x, gamma, beta, mean, rstd, side, *outputs)
        self._call("backward", norm, x.dtype, workspace, *tensors)

    def standardize_weights(self, epsilon, w, gain, w_hat, mean, rstd, *gradients):
        """w: [fan_in, outputs]. gradients: nothing, or dw_hat, dw, dgain."""
        tensors = _tensors(w, gain, w_hat, mean, rstd, *gradients)
        self._check(
            self._library.tfgn_standardize_weights(
                ctypes.c_int64(w.shape[0]),
                ctypes.c_int64(w.shape[1]),
                ctypes.c_double(epsilon),
                ctypes.byref(tensors),
                self._stream(),
            )
        )

    def _call(self, name, norm, dtype, workspace, *tensors):
        view, pointers = norm.view(), _tensors(*tensors)
        function = getattr(self._library, f"tfgn_group_norm_{name}")
        self._check(
            function(
                DTYPES[dtype],
                ctypes.byref(view),
                ctypes.byref(pointers),
                ctypes.c_void_p(workspace.data_ptr()),
                self._stream(),
            )
        )

    def _stream(self) -> ctypes.c_void_p | None:
        if self.device != "cuda":
            return None
        return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    @staticmethod
    def _check(error: bytes):
        if error:
            raise CudaError(error.decode())


def build(folder: Path, architecture: str) -> Path:
    """Compiles the kernels, unless the folder has an up-to-date library.

    Args:
        folder: the output folder.
        architecture: the value for `nvcc -arch`.

    Returns:
        The path of the shared library.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise BuildError("there is no nvcc in PATH: install a CUDA toolkit, 12 or newer")
    command = [nvcc, "-std=c++17", "-O3", f"-arch={architecture}", "-shared", "-Xcompiler=-fPIC"]
    command += ["-Xcompiler=-fvisibility=hidden", "-lineinfo", f"-I{ROOT / 'cc'}"]
    command += [str(source) for source in SOURCES]
    digest = hashlib.sha256(" ".join(command).encode())
    for source in sorted((*filter(Path.is_file, KERNELS.rglob("*")), FOLDER / "interface.cc")):
        digest.update(source.read_bytes())
    library = folder / f"kernels-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(".partial")
        result = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if result.returncode:
            raise BuildError(f"nvcc failed:\n{result.stdout}{result.stderr}")
        partial.rename(library)
    return library
