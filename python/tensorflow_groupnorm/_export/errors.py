"""What can go wrong, in one sentence."""

import re

#: What to do about ops of lookup tables.
LOOKUPS = (
    "look strings and integers up before the model, and export it without StringLookup, "
    "TextVectorization and the like"
)


class ExportError(RuntimeError):
    """A model could not be exported. The message says why, in one sentence; nothing is written."""


def first_line(error: Exception) -> str:
    """Returns what an error says, without what TensorFlow and Keras put around it."""
    # MLIR puts the place in the graph before, in brackets within brackets.
    refused = re.search(r"error: loc\(.*\)\): (.*)$", str(error), flags=re.MULTILINE)
    if refused:
        return refused[1]
    # TensorFlow puts a traceback of the graph's construction before, and names of nodes.
    *_, message = re.split(r"^\s*\w+Error: ", str(error), flags=re.MULTILINE)
    message = re.sub(r"\x1b\[\d*m|\{\{.*?\}\}", "", message)
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered")]
    return lines[0] if lines else type(error).__name__
