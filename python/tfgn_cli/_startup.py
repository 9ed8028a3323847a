"""Starts TensorFlow without the lines that it logs when it starts."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

_STDERR = 2


def start_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices.

    What it logs meanwhile, such as that there is no GPU, is shown only if it fails. So are its
    later information and warnings, unless the environment variable `TF_CPP_MIN_LOG_LEVEL` is set.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _shown_on_failure():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def _shown_on_failure() -> Iterator[None]:
    """Holds back what any code of this process writes to standard error."""
    sys.stderr.flush()
    shown = os.dup(_STDERR)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(shown, held.read())
            raise
        finally:
            os.dup2(shown, _STDERR)
            os.close(shown)
