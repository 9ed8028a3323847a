"""`tfgn check`."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from itertools import chain
from typing import Any

from ._common import EXIT_FAILURE


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `tfgn check` to the subparsers `commands`."""
    parser = commands.add_parser(
        "check",
        help="prove that the installation works",
        description="Checks the installation: the versions that are required, the libraries for "
        "every TensorFlow (what they link, where they look for it, the glibc, libstdc++ and absl "
        "that they need), copies left in tensorflow-plugins, and a forward and backward call of "
        "each op on each device, with and without XLA, against stock ops in float64. Every failure "
        "names its remedy. The exit code is 1 if a check fails.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object, for a bug report")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Runs the checks and prints them; returns the exit code."""
    from ._check import installation
    from ._check.findings import FAILED, lines, summary
    from ._check.ops import OpChecks

    width = shutil.get_terminal_size().columns
    ops = OpChecks()
    findings = []
    part = None
    for finding in chain(installation.check(), ops.run()):
        findings.append(finding)
        if not args.json:
            heading = [finding.part] if finding.part != part else []
            print(*heading, *lines(finding, width), sep="\n", flush=True)
            part = finding.part
    passed = all(finding.status != FAILED for finding in findings)
    if args.json:
        report = {
            "passed": passed,
            "findings": [finding.as_json() for finding in findings],
            "platform": platform.platform(),
            "environment": ops.environment,
            "log": ops.log,
        }
        print(json.dumps(report, indent=1))
    else:
        print(summary(findings))
    return 0 if passed else EXIT_FAILURE
