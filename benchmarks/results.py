"""The results of a run, in memory and as JSON."""

from __future__ import annotations

import dataclasses
import statistics

from .accuracy import Accuracy
from .cases import COPIES, Case, Inference, Step, case_from_dict
from .sections import Entry


@dataclasses.dataclass
class Results:
    """Everything the report shows.

    Attributes:
        environment: `date`, `command`, `rounds`, `machine`, `versions`, and in `before` the first
            three of earlier runs, to whose results these were added.
        times: the nanoseconds of each round, by section and entry.
        memory: the peak bytes of training steps.
        nodes: the numbers of nodes of ONNX files.
        accuracy: one row per contender, case and mean.
        skipped: a sentence for each contender that could not run.
    """

    environment: dict
    times: dict[tuple[str, Entry], list[float]] = dataclasses.field(default_factory=dict)
    memory: dict[Step, int] = dataclasses.field(default_factory=dict)
    nodes: dict[Entry, int] = dataclasses.field(default_factory=dict)
    accuracy: list[Accuracy] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)

    def ns(self, section: str, contender: str, case: Case) -> float | None:
        """Returns the median over the rounds, or None if not measured."""
        rounds = self.times.get((section, Entry(contender, case)))
        return statistics.median(rounds) if rounds else None

    def copy_ns(self, section: str, case: Case) -> float | None:
        """Returns the time of a copy of the input, with the faster kind of stores."""
        times = [self.ns(section, copy, case.copied) for copy in COPIES]
        return min((ns for ns in times if ns is not None), default=None)

    def bound_ns(self, section: str, case: Case) -> float | None:
        """Returns the time of the unavoidable memory traffic of a case."""
        copy = self.copy_ns(section, case)
        return None if copy is None else copy * case.traffic

    def cases(self, section: str) -> list[Case]:
        """Returns the cases of a section, in the order of measurement."""
        return list(dict.fromkeys(entry.case for name, entry in self.times if name == section))

    def added_to(self, earlier: Results) -> Results:
        """Returns earlier results with the sections of these, or networks, in place of their own.

        Args:
            earlier: results of the same machine.
        """
        parts = {_part(*key) for key in self.times}
        kept = {key: ns for key, ns in earlier.times.items() if _part(*key) not in parts}
        environment = earlier.environment | self.environment
        environment["versions"] = earlier.environment["versions"] | self.environment["versions"]
        before = earlier.environment.get("before", [])
        environment["before"] = [*before, run_of(earlier.environment)]
        return Results(
            environment,
            kept | self.times,
            earlier.memory | self.memory,
            earlier.nodes | self.nodes,
            self.accuracy or earlier.accuracy,
            list(dict.fromkeys([*earlier.skipped, *self.skipped])),
        )

    def to_json(self) -> dict:
        """Returns an object of lists and dictionaries."""
        times = [
            {
                "section": section,
                "contender": entry.contender,
                "kind": type(entry.case).__name__,
                "case": dataclasses.asdict(entry.case),
                "ns": rounds,
            }
            for (section, entry), rounds in self.times.items()
        ]
        memory = [
            {"case": dataclasses.asdict(case), "bytes": peak} for case, peak in self.memory.items()
        ]
        nodes = [
            {"contender": entry.contender, "case": dataclasses.asdict(entry.case), "nodes": number}
            for entry, number in self.nodes.items()
        ]
        accuracy = [dataclasses.asdict(row) for row in self.accuracy]
        return {
            "environment": self.environment,
            "times": times,
            "memory": memory,
            "nodes": nodes,
            "accuracy": accuracy,
            "skipped": self.skipped,
        }

    @classmethod
    def from_json(cls, content: dict) -> Results:
        """The inverse of `to_json`."""
        times = {}
        for row in content["times"]:
            entry = Entry(row["contender"], case_from_dict(row["kind"], row["case"]))
            times[row["section"], entry] = row["ns"]
        accuracy = [
            Accuracy(**(row | {"shape": tuple(row["shape"])})) for row in content["accuracy"]
        ]
        # A dictionary in results of before there was the section `memory`, which lacks most steps.
        rows = content["memory"] if isinstance(content["memory"], list) else []
        memory = {Step(**row["case"]): row["bytes"] for row in rows}
        nodes = {
            Entry(row["contender"], Inference(**row["case"])): row["nodes"]
            for row in content.get("nodes", [])  # Absent in results of before there was `export`.
        }
        read = {"times": times, "memory": memory, "nodes": nodes, "accuracy": accuracy}
        return cls(**(content | read))


def run_of(environment: dict) -> dict:
    """Returns what tells a run of the benchmarks from others."""
    return {key: environment[key] for key in ("command", "date", "rounds")}


def _part(section: str, entry: Entry) -> tuple[str, str]:
    """What a run replaces as a whole: a section, or a network of the section `memory`."""
    return section, entry.case.network if section == "memory" else ""
