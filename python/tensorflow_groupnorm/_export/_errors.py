"""What can go wrong, in one sentence."""

import re


class ExportError(RuntimeError):
    """A model could not be exported. The message says why, in one sentence; nothing is written."""


def first_line(error: Exception) -> str:
    """Returns what an error says, without what TensorFlow and Keras put around it."""
    # TensorFlow puts a traceback of the graph's construction before, and names of nodes.
    *_, message = re.split(r"^\s*\w+Error: ", str(error), flags=re.MULTILINE)
    message = re.sub(r"\x1b\[\d*m|\{\{.*?\}\}", "", message)
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered")]
    return lines[0] if lines else type(error).__name__
