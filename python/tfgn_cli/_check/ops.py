"""Checks that the libraries load and that every op computes what it should."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tfgn_base import plugin

from .._processes import NotStartedError, WorkerDiedError, WorkerError, WorkerProcess
from .findings import Finding, failed, passed, skipped
from .limits import limit

_REPORT = "Report it with the output of `tfgn check --json`."
#: A method of `calls.Calls`, and the ops that it calls.
_OPS = {
    "group_norm": "GroupNorm, GroupNormGrad",
    "standardize_weights": "StandardizeWeights, StandardizeWeightsGrad",
    "optimization_barrier": "OptimizationBarrier",
}


class OpChecks:
    """The checks that need TensorFlow.

    Attributes:
        environment: what `tfgn info --json` prints, once it is known.
        log: what the process of the calls printed, if it ended before them.
    """

    def __init__(self) -> None:
        """Does nothing until `run`."""
        self.environment: dict[str, Any] | None = None
        self.log = ""

    def run(self) -> Iterator[Finding]:
        """Loads the libraries and calls the ops, in a process of its own."""
        copy = plugin.installed()
        if copy and copy.problem():
            yield skipped("ops", "all ops", "TensorFlow cannot be imported with the plugin above")
            return
        name = "import tensorflow_groupnorm"
        try:
            # Whether the ops must be on is for the findings to say.
            environment = {"TFGN_REQUIRE_FUSED": "0"}
            with WorkerProcess("tfgn_cli._check.calls", environment=environment) as worker:
                self.environment = worker.facts["environment"]
                yield from _loaded(self.environment)
                for name, arguments in _calls(self.environment, worker.facts["devices"]):
                    yield _called(name, worker, *arguments)
                yield from _without_kernels(self.environment)
        except NotStartedError as error:
            yield failed("ops", name, str(error), "Reinstall TensorFlow and Keras.")
        except WorkerDiedError as error:
            self.log = str(error)
            yield failed("ops", name, f"the process ended with {error.exit_code}", _REPORT)


def _loaded(environment: dict[str, Any]) -> Iterator[Finding]:
    """Says whether the libraries are loaded, once each."""
    if environment["reason"]:
        yield failed("ops", "op library", *_with_remedy(environment["reason"]))
        return
    target = f"TensorFlow {environment['tensorflow']}, CPU target {environment['cpu_target']}"
    yield passed("ops", "op library", f"loaded once, {target}")
    reason = environment["xla_reason"]
    if reason is None:
        yield passed("ops", "XLA library", "loaded once")
    elif "without XLA kernels" in reason or "for CPUs only" in reason:
        yield skipped("ops", "XLA library", reason)
    else:
        yield failed("ops", "XLA library", *_with_remedy(reason))


def _with_remedy(message: str) -> tuple[str, str]:
    """Splits an error of the library before its last sentence, which says what to do."""
    match = re.fullmatch(r"(.*)\. ([A-Z].*)", message, re.DOTALL)
    return (match[1], match[2]) if match else (message, _REPORT)


def _calls(
    environment: dict[str, Any], devices: list[str]
) -> Iterator[tuple[str, tuple[str, str, bool]]]:
    """The names and arguments of the calls to make."""
    for device in devices if environment["fused"] else ():
        if device.startswith("GPU") and not environment["cuda"]:
            continue
        for method, ops in _OPS.items():
            for jit in (False, True) if environment["xla"] else (False,):
                name = f"{ops} on {device}{', compiled by XLA' if jit else ''}"
                yield name, (method, device, jit)


def _called(name: str, worker: WorkerProcess, method: str, device: str, jit: bool) -> Finding:
    """Makes the calls of an op on a device, one for each dtype."""
    try:
        errors = worker.call(method, device, jit)
    except WorkerDiedError:
        raise
    except WorkerError as error:
        return failed("ops", name, error.sentence, _REPORT)
    for dtype, (tensor, difference) in errors.items():
        if difference > limit(dtype):
            return failed(
                "ops",
                name,
                f"the {tensor} of {dtype} has a relative error of {difference:.1e} against "
                f"float64, more than {limit(dtype):.1e}",
                _REPORT,
            )
    if not any(difference for _, difference in errors.values()):
        return passed("ops", name, f"exact in {', '.join(errors)}")
    texts = [f"{dtype} {difference:.0e}" for dtype, (_, difference) in errors.items()]
    return passed("ops", name, f"relative error {', '.join(texts)}")


def _without_kernels(environment: dict[str, Any]) -> Iterator[Finding]:
    """Says why there are GPUs on which no op was called."""
    if environment["gpus"] and environment["fused"] and not environment["cuda"]:
        yield skipped(
            "ops",
            f"{environment['gpus']} GPUs",
            "this build has no CUDA kernels, so the ops run on the CPU. An installation from "
            "source has them if there is an nvcc of CUDA 12 or newer",
        )
