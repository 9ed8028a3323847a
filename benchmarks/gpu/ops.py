"""Checks the ops inside TensorFlow on a GPU.

`python -m benchmarks.gpu.ops` runs the suites of the ops and layers with every op placed on the
GPU, then a training step and both ops under `jit_compile=True` beside the CPU's results. Arguments
go to pytest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .__main__ import EXIT_UNUSABLE

ROOT = Path(__file__).resolve().parents[2]
SUITES = (
    "ops/test_gpu.py",
    "ops/test_group_norm_op.py",
    "ops/test_standardize_weights_op.py",
    "ops/test_gradients.py",
    "ops/test_invalid_calls.py",
    "ops/test_xla_ops.py",
    "layers/test_layers.py",
    "layers/test_weight_standardization.py",
)


def main(arguments: list[str]) -> int:
    """Runs the suites.

    Returns:
        pytest's exit code; 2 if the command cannot run here.
    """
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    import tensorflow as tf
    import tensorflow_groupnorm as tfgn

    cuda = tfgn.build_info()["cuda"]
    if not cuda:
        return _refuse("this build of tensorflow-groupnorm has no CUDA kernels: see TFGN_CUDA")
    if not tf.config.list_physical_devices("GPU"):
        return _refuse(f"TensorFlow {tf.__version__} sees no GPU: nvidia-smi tells of the driver")
    print(f"TensorFlow {tf.__version__}, kernels of CUDA {cuda}", flush=True)
    files = [str(ROOT / "tests" / suite) for suite in SUITES]
    command = [sys.executable, "-m", "pytest", "--device=GPU", *files, *arguments]
    return subprocess.run(command, cwd=ROOT).returncode


def _refuse(message: str) -> int:
    print(f"benchmarks.gpu.ops: {message}", file=sys.stderr)
    return EXIT_UNUSABLE


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
