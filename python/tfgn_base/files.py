"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: What the folder of unfinished files is called at first, beside where they go.
UNFINISHED = ".tfgn-unfinished-"


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Lets a file or a folder take its name only once it is complete.

    What is at `path` is replaced: a file, a folder or a link, not what the link points to. If the
    `with` block raises, it stays as it was. A file replaces a file in one step, for which other
    processes see the old one or the new one.

    Args:
        path: where the file or the folder is to appear, in a folder that exists.

    Yields:
        Where to write it: a path of the same name, in a new and hidden folder beside `path`.

    Raises:
        FileNotFoundError: if the block wrote nothing there.
        OSError: if `path` cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as temporary:
        unfinished, replaced = Path(temporary, "new", path.name), Path(temporary, "replaced")
        unfinished.parent.mkdir()
        yield unfinished
        # os.replace() needs two files, or a folder and a name that is free.
        if os.path.lexists(path) and (_is_folder(unfinished) or _is_folder(path)):
            os.replace(path, replaced)
        try:
            os.replace(unfinished, path)
        except BaseException:
            if os.path.lexists(replaced):
                os.replace(replaced, path)
            raise


def write_text(path: Path, text: str):
    """Writes a text file in UTF-8, whole or not at all; see `whole`."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
