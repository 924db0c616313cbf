"""Files and folders are whole or not there: after an error, a full disk, a kill between writing and renaming, and two writers."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from ingot.core import atomic
from ingot.core.atomic import settle, sync_folder, whole_file, whole_folder, write_text
from ingot.core.errors import RunError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "note.json"
    for text in ("one", "zwei ü\n"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text and names(path.parent) == ["note.json"]


def test_a_file_keeps_its_suffix_and_the_old_one_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    path.write_text("old")
    with whole_file(path) as aside:
        assert aside.parent == tmp_path and aside.suffix == ".npy" and aside != path
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["table.npy"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_in_between_leaves_the_old_one_and_nothing_aside(tmp_path: Path, kind: str) -> None:
    old = tmp_path / "kept"
    old.write_text("old") if kind == "file" else (old.mkdir(), (old / "x").write_text("old"))
    with pytest.raises(ValueError, match="not a disk's"), (whole_file if kind == "file" else whole_folder)(old) as aside:
        (aside if kind == "file" else aside / "x").write_text("new")
        raise ValueError("not a disk's")
    assert names(tmp_path) == ["kept"] and (old if kind == "file" else old / "x").read_text() == "old"


@pytest.mark.parametrize("make", [whole_file, whole_folder])
def test_a_full_disk_is_one_line_that_names_the_place(tmp_path: Path, make: object) -> None:
    with pytest.raises(RunError) as caught, make(tmp_path / "place"):  # type: ignore[operator]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == f"{tmp_path / 'place'} cannot be written: No space left on device" and not names(tmp_path)


def test_a_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "below", tmp_path / "file" / "below" / "deeper"):
        with pytest.raises(RunError, match="cannot be written"):
            write_text(path, "y")
        with pytest.raises(RunError, match="cannot be written"), whole_folder(path):
            pass
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_before_the_rename_leaves_the_old_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "place"
    write_text(path, "old") if kind == "file" else None
    child = os.fork()
    if not child:
        atomic._flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        with (whole_file if kind == "file" else whole_folder)(path) as aside:
            (aside if kind == "file" else aside / "x").write_text("new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_text() == "old" if kind == "file" else not path.exists()
    with (whole_file if kind == "file" else whole_folder)(path) as aside:  # what the dead one left is not in the way
        (aside if kind == "file" else aside / "x").write_text("newer")
    assert (path if kind == "file" else path / "x").read_text() == "newer"


def test_the_faster_of_two_writers_stays(tmp_path: Path) -> None:
    final = tmp_path / "place"
    with whole_folder(final, mark="done") as aside:
        (aside / "done").write_text("second")
        final.mkdir()
        (final / "done").write_text("first")
    assert (final / "done").read_text() == "first" and names(tmp_path) == ["place"]


def test_a_folder_without_its_mark_is_not_taken_for_whole(tmp_path: Path) -> None:
    final = tmp_path / "place"
    with pytest.raises(RunError, match="cannot be written"), whole_folder(final, mark="done") as aside:
        (aside / "done").write_text("mine")
        final.mkdir()
        (final / "half").write_text("theirs")
    assert names(tmp_path) == ["place"] and names(final) == ["half"]


def test_everything_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = os.rename
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    monkeypatch.setattr(os, "rename", lambda one, other: (order.append("rename"), real(one, other)))
    with whole_folder(tmp_path / "place") as aside:
        (aside / "a").write_text("x")
    assert order == ["a", aside.name, "rename", tmp_path.name]


def test_a_file_system_that_cannot_flush_folders_is_no_error_a_failing_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(code: int) -> None:
        def fsync(handle: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    failing(errno.EINVAL)
    sync_folder(tmp_path)
    failing(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
    (tmp_path / "aside").mkdir()
    with pytest.raises(OSError, match="Input/output"):
        settle(tmp_path / "aside", tmp_path / "final")


def test_machines_that_share_a_disk_write_aside_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of two machines may have the same number."""
    asides = []
    for node in ("one", "two.example/x"):
        monkeypatch.setattr(atomic.platform, "node", lambda node=node: node)
        with whole_file(tmp_path / "a.json") as aside:
            aside.write_text("x")
            asides += [aside, atomic.aside_of(tmp_path / "b")]
    assert len(set(asides)) == 4 and {aside.parent for aside in asides} == {tmp_path}
