"""The sections of the report: which contenders run which cases in the same rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from tfgn_cli import _memory

from .cases import (
    CHAINS,
    COPIES,
    MEMORY_DTYPES,
    MEMORY_NORMS,
    NETWORKS,
    OP_BYTES,
    OTHER_SHAPES,
    SCALING,
    SIZES,
    STEPS,
    Calls,
    Case,
    Inference,
    Norm,
    Step,
    Weights,
    channels_first,
)
from .export import contenders as exports

PASSES = (False, True)
CHAIN_LENGTH = 30
STANDARDIZATIONS = ("kernel", "op", "op jit", "composite", "composite jit", "torch")
EVERYONE = ("kernel", "op", "op jit", "floor", "keras", "keras jit", "fused bn", "torch")


class Entry(NamedTuple):
    """One contender on one case."""

    contender: str
    case: Case


class Group(NamedTuple):
    """Entries that are measured in the same rounds, interleaved.

    An entry that has used up its seconds stops, but not before `rounds.FEWEST_ROUNDS`.
    """

    section: str
    title: str
    entries: list[Entry]
    seconds: float = 3.0


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _everyone(section: str, case: Norm, contenders=EVERYONE) -> Group:
    entries = [Entry(copy, case) for copy in COPIES]
    for backward in PASSES:
        entries += [Entry(c, dataclasses.replace(case, backward=backward)) for c in contenders]
    return Group(section, f"{section} {_text(case.shape)}", entries)


def _ours(section: str, title: str, cases: list[Norm], contenders=("kernel", "op")) -> Group:
    entries = [Entry(copy, case) for case in {c.copied: None for c in cases} for copy in COPIES]
    entries += [
        Entry(contender, dataclasses.replace(case, backward=backward))
        for case in cases
        for backward in PASSES
        for contender in contenders
    ]
    return Group(section, f"{section} {title}", entries)


def ladder(shapes) -> Iterator[Group]:
    for shape in shapes:
        yield _everyone("ladder", Norm(shape))


def other_shapes(shapes) -> Iterator[Group]:
    for case in OTHER_SHAPES.values():
        yield _everyone("shapes", case)


FUSIONS = {
    "+ReLU": {"activation": "relu"},
    "+SiLU": {"activation": "silu"},
    "+residual": {"residual": True},
    "+residual+ReLU": {"activation": "relu", "residual": True},
}


def fusions(shapes) -> Iterator[Group]:
    for shape in shapes:
        cases = [Norm(shape)] + [Norm(shape, **fusion) for fusion in FUSIONS.values()]
        yield _ours("fusions", _text(shape), cases)


def types(shapes) -> Iterator[Group]:
    for shape in shapes:
        cases = [Norm(shape, dtype=dtype) for dtype in ("float32", "bfloat16", "float16")]
        yield _ours("types", _text(shape), cases)


def layouts(shapes) -> Iterator[Group]:
    contenders = [name for name in EVERYONE if name != "fused bn"]  # On a CPU: channels last only.
    for shape in shapes:
        yield _everyone("layouts", Norm(channels_first(shape), axis=1), contenders)


def scaling(shapes) -> Iterator[Group]:
    for case in SCALING.values():
        cases = [dataclasses.replace(case, threads=threads) for threads in (1, None)]
        yield _ours("scaling", _text(case.shape), cases, ("kernel",))
    for case in SIZES.values():
        # Memory for x, dy, y and dx, and half a tensor for everything else.
        if 4.5 * case.nbytes > _memory.available():
            continue
        contenders = ("kernel", "op") if case.nbytes <= OP_BYTES else ("kernel",)
        yield _ours("scaling", _text(case.shape), [case], contenders)


def calls(shapes) -> Iterator[Group]:
    entries = [Entry(c, Calls(backward)) for backward in PASSES for c in ("op", "floor")]
    yield Group("calls", "calls of ops on 1 KB", entries)
    for norm in CHAINS.values():
        cases = [Calls(backward, CHAIN_LENGTH, norm.shape) for backward in PASSES]
        entries = [Entry(c, case) for case in cases for c in ("op", "floor", "torch")]
        yield Group("calls", f"calls of ops on {_text(norm.shape)}", entries)


def weights(shapes) -> Iterator[Group]:
    entries = [Entry(copy, Weights()) for copy in COPIES]
    for backward in PASSES:
        for contender in STANDARDIZATIONS:
            entries.append(Entry(contender, Weights(backward)))
    yield Group("weights", "weights of a ResNet-50", entries)


def step(shapes) -> Iterator[Group]:
    entries = [Entry("step", case) for case in STEPS]
    yield Group("step", "training step of a ResNet50V2", entries)


def memory(shapes) -> Iterator[Group]:
    for key, network in NETWORKS.items():
        for dtype in MEMORY_DTYPES:
            for jit in (False, True):
                cases = [
                    Step(norm, network.timed, network.side, jit, key, dtype)
                    for norm in MEMORY_NORMS
                ]
                title = f"memory {network.text}, {dtype}" + ", jit" * jit
                # Differences of 2% need more rounds than BN and GN do.
                yield Group("memory", title, [Entry("step", case) for case in cases], 30.0)


def export(shapes) -> Iterator[Group]:
    for network in exports.NETWORKS:
        for batch in exports.BATCHES:
            case = Inference(network, batch)
            entries = [Entry(contender, case) for contender in exports.CONTENDERS]
            # Differences of 2% need more rounds.
            yield Group("export", f"export {case.text}", entries, 30.0)


SECTIONS = {
    "ladder": ladder,
    "fusions": fusions,
    "types": types,
    "layouts": layouts,
    "shapes": other_shapes,
    "scaling": scaling,
    "calls": calls,
    "weights": weights,
    "step": step,
    "memory": memory,
    "export": export,
}
