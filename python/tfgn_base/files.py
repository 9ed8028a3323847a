"""Writes files and directories completely or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: The prefix of the directory for an unfinished file, which is created next to its target.
UNFINISHED = ".tfgn-unfinished-"


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Moves a file or directory to its path only once it is complete.

    It replaces a file, directory or symbolic link at `path`, but not the target of the link. If
    the `with` block raises, `path` does not change. A file is replaced atomically: other processes
    see the old or the new one.

    Args:
        path: the target, in a directory that exists.

    Yields:
        The path to write to, with the same name, in a new hidden directory next to `path`.

    Raises:
        FileNotFoundError: if the block writes nothing there.
        OSError: if `path` cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as temporary:
        unfinished, replaced = Path(temporary, "new", path.name), Path(temporary, "replaced")
        unfinished.parent.mkdir()
        yield unfinished
        # os.replace() requires two files, or a folder and an unused name.
        if os.path.lexists(path) and (_is_folder(unfinished) or _is_folder(path)):
            os.replace(path, replaced)
        try:
            os.replace(unfinished, path)
        except BaseException:
            if os.path.lexists(replaced):
                os.replace(replaced, path)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, completely or not at all; see `whole`."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
