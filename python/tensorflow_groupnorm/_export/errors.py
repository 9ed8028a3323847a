"""The error of an export, and error messages shortened to one line."""

import re

#: The way around ops of lookup tables.
LOOKUPS = (
    "look strings and integers up before the model, and export it without layers such as "
    "StringLookup, TextVectorization"
)


class ExportError(RuntimeError):
    """A model could not be exported. The message says why; no file is written."""


def first_line(error: Exception) -> str:
    """Returns the message of an error without the context that TensorFlow and Keras add."""
    # MLIR puts the location in the graph, with nested brackets, before the message.
    refused = re.search(r"error: loc\(.*\)\): (.*)$", str(error), flags=re.MULTILINE)
    if refused:
        return refused[1]
    # TensorFlow adds the traceback of the graph's construction, and names of nodes.
    *_, message = re.split(r"^\s*\w+Error: ", str(error), flags=re.MULTILINE)
    message = re.sub(r"\x1b\[\d*m|\{\{.*?\}\}", "", message)
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Exception encountered")]
    context = r"Graph execution error:$|Detected at node |<stack traces|File \""
    while lines and re.match(context, lines[0]):
        del lines[0]
    return lines[0] if lines else type(error).__name__
