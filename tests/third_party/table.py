"""Prints what came of the models, as a table in Markdown or as JSON.

    python -m third_party.table [--json] [FOLDER]

FOLDER holds a folder for each model with its results.json: build/third_party, where
`pytest -m third_party` leaves them.
"""

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "build" / "third_party"


def rows(results):
    """Yields the lines of a table: a model, the steps that went well, those that did not."""
    yield "| model | steps | seconds | failed | impossible |"
    yield "|---|---|---|---|---|"
    for name, steps in sorted(results.items()):
        good = sum(not result["error"] and not result["impossible"] for result in steps.values())
        seconds = sum(result["seconds"] for result in steps.values())
        failed = [f"{step}: {r['error'][:100]}" for step, r in steps.items() if r["error"]]
        cannot = [f"{step}: {r['impossible']}" for step, r in steps.items() if r["impossible"]]
        cells = (name, good, f"{seconds:.0f}", "; ".join(failed), "; ".join(cannot))
        yield (
            "| "
            + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells)
            + " |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.glob("*/results.json"))
    results = {file.parent.name: json.loads(file.read_text()) for file in files}
    print(json.dumps(results, indent=1) if arguments.json else "\n".join(rows(results)))


if __name__ == "__main__":
    main()
