"""Files that are written whole or not at all: `tfgn_base.files`."""

import os

import pytest
from tfgn_base import files


def tree(folder):
    """What is below a folder: the text of each file, where each link points to."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def put(path, kind, text):
    if kind == "file":
        path.write_text(text)
    elif kind == "folder":
        path.mkdir()
        (path / "inside").write_text(text)
    elif kind == "link":
        path.symlink_to("elsewhere")


@pytest.fixture(params=["nothing", "file", "folder", "link"])
def target(request, tmp_path):
    """A path with something at it, in a folder with something for a link to point to."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("kept")
    put(tmp_path / "target.txt", request.param, "old")
    return tmp_path / "target.txt"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_complete_replaces_what_was_there(kind, target):
    with files.whole(target) as unfinished:
        before = tree(target.parent)
        assert unfinished.name == target.name
        put(unfinished, kind, "new")
        assert before.items() <= tree(target.parent).items()
    new = {"target.txt": "new"} if kind == "file" else {"target.txt/inside": "new"}
    assert tree(target.parent) == {"elsewhere/kept": "kept"} | new
    assert {path.name for path in target.parent.iterdir()} == {"elsewhere", "target.txt"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_fails_leaves_everything_as_it_was(kind, error, target):
    before = sorted(target.parent.iterdir()), tree(target.parent)
    with pytest.raises(error), files.whole(target) as unfinished:
        put(unfinished, kind, "half")
        raise error
    assert (sorted(target.parent.iterdir()), tree(target.parent)) == before


def test_a_block_that_writes_nothing_replaces_nothing(target):
    before = sorted(target.parent.iterdir()), tree(target.parent)
    with pytest.raises(FileNotFoundError), files.whole(target):
        pass
    assert (sorted(target.parent.iterdir()), tree(target.parent)) == before


def test_what_cannot_take_its_place_leaves_what_was_there(target, monkeypatch):
    replace, before = os.replace, (sorted(target.parent.iterdir()), tree(target.parent))

    def interrupted(source, destination):
        if source.parent.name == "new":
            raise KeyboardInterrupt
        replace(source, destination)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), files.whole(target) as unfinished:
        put(unfinished, "folder", "new")
    assert (sorted(target.parent.iterdir()), tree(target.parent)) == before


def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    files.write_text(tmp_path / "whole", "µ")
    assert (tmp_path / "whole").read_bytes() == "µ".encode()
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 255)
    files.write_text(path, "text")
    assert path.read_text() == "text"
