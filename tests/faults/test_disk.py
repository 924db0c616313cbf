"""Disks that are full and folders that cannot be written, at every stage of a run: one line, and what lies there already stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingot.build.session import Scribe
from ingot.train.checkpoint import Checkpoints


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, kind: str, act: Callable[[], object]) -> None:
    """Do something once, right before a line of the ledger is written."""
    real = Scribe.emit
    done: list[int] = []

    def emit(self: Scribe, line: dict[str, Any]) -> None:
        if line["kind"] == kind and line.get("step", 0) >= number and not done:
            done.append(number)
            act()
        real(self, line)

    monkeypatch.setattr(Scribe, "emit", emit)


def whole(ledger: Path) -> list[dict[str, Any]]:
    """Every line of a ledger, each of which must be whole."""
    return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]


# -- full ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 32768])
def test_full_while_preparing(ingot: Any, write: Any, disk: Any, tmp_path: Path, leave: int) -> None:
    place = disk("size=256k")
    (tmp_path / "big.txt").write_text("the of and a to\n" * 20_000)
    path = write(
        {"data": {"train": None, "cache": str(place / "cache")}},
        {"data": {"train": {"name": "text_files", "paths": ["big.txt"], "document": "line"}}},
    )
    disk.fill(place, leave)
    ingot.refuses("prepare", path, status=1, words=(str(place / "cache"), disk.full), keeps=(tmp_path / "big.txt",))
    disk.clear(place)
    assert not list(place.glob("cache/tokens/*.aside-*"))


def test_full_while_a_tokenizer_is_trained(ingot: Any, write: Any, disk: Any) -> None:
    place = disk("size=4m")
    path = write({"data": {"tokenizer": {"name": "bpe", "vocabulary": 400}, "cache": str(place)}})
    disk.fill(place, 8192 * disk.mounted)
    ingot.refuses("prepare", path, status=1, words=(str(place), disk.full))
    disk.clear(place)
    assert ingot("prepare", path)[0] == 0


@pytest.mark.parametrize("leave", [0, 4096, 100_000, 1_000_000])
def test_full_before_the_start(ingot: Any, write: Any, disk: Any, leave: int) -> None:
    place = disk("size=8m")
    path = write()
    assert ingot("prepare", path)[0] == 0
    disk.fill(place, leave)
    ingot.refuses("train", path, "--runs", place / "runs", status=1, words=(str(place / "runs" / "tiny"),), keeps=(Path(".ingot"),))


@pytest.mark.parametrize(
    ("kind", "number", "leave"), [("step", 3, 0), ("evaluation", 0, 0), ("event", 2, 0), ("step", 1, 4096), ("step", 2, 0)]
)
def test_full_while_the_ledger_is_written(
    ingot: Any, write: Any, disk: Any, monkeypatch: pytest.MonkeyPatch, kind: str, number: int, leave: int
) -> None:
    place = disk("size=32m")
    run = place / "runs" / "tiny"
    path = write({"log": {"tensorboard": False}})
    at_step(monkeypatch, number, kind, lambda: disk.fill(place, leave, "ledger.jsonl"))
    ingot.refuses("train", path, "--runs", place / "runs", status=1, words=(str(run),))
    assert all(line["kind"] for line in whole(run / "ledger.jsonl"))
    disk.clear(place)
    monkeypatch.undo()
    monkeypatch.chdir(path.parent)
    status, _, err = ingot("train", path, "--runs", place / "runs")
    assert status == 0, err
    assert [line["step"] for line in whole(run / "ledger.jsonl") if line["kind"] == "step"] == [1, 2, 3, 4]


@pytest.mark.parametrize("leave", [0, 10_000, 100_000, 300_000, 4_000_000])
def test_full_while_a_checkpoint_is_written(ingot: Any, write: Any, disk: Any, monkeypatch: pytest.MonkeyPatch, leave: int) -> None:
    """With and without the forecast of room: the writer itself meets the end of the disk when nothing forecasts it."""
    if leave == 4_000_000 and not disk.mounted:
        pytest.skip("a limit on files does not say what room is left, which this case forecasts from")
    place = disk("size=32m")
    run = place / "runs" / "tiny"
    path = write()
    if leave < 4_000_000:
        monkeypatch.setattr(Checkpoints, "bytes_needed", lambda self, state: 0)
    kept: dict[str, str] = {}

    def act() -> None:
        disk.fill(place, leave + 16384 * (not disk.mounted), "ledger.jsonl")  # the step's own line still has room
        kept.update(ingot.fingerprint(run / "checkpoints"))

    at_step(monkeypatch, 4, "step", act)
    ingot.refuses("train", path, "--runs", place / "runs", status=1, words=("step-00000004", "earlier checkpoints are whole"))
    assert kept and ingot.fingerprint(run / "checkpoints") == kept
    assert whole(run / "ledger.jsonl")[-1]["kind"] in ("step", "evaluation", "event")
    disk.clear(place)
    monkeypatch.undo()
    monkeypatch.chdir(path.parent)
    assert ingot("train", path, "--runs", place / "runs")[0] == 0


@pytest.mark.parametrize("command", ["report", "export"])
def test_full_while_results_are_written(ingot: Any, place: Path, disk: Any, command: str) -> None:
    room = disk("size=8m")
    subprocess.run(["cp", "-r", "runs/tiny", str(room)], check=True)
    (room / "tiny" / "report.html").write_text("the old report")
    disk.fill(room)
    arguments = (room / "tiny",) if command == "report" else ("runs/tiny", room / "out")
    ingot.refuses(command, *arguments, status=1, words=(str(room), disk.full), keeps=(room / "tiny", place / "runs"))


# -- not to be written -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def frozen() -> Iterator[Callable[[Path], None]]:
    """Makes a file or folder that nobody, root included, can change; skips where the file system cannot."""
    held: list[Path] = []

    def freeze(path: Path) -> None:
        try:
            done = subprocess.run(["chattr", "+i", str(path)], capture_output=True)
        except FileNotFoundError:
            pytest.skip("no chattr command")
        if done.returncode:
            pytest.skip("the file system has no such attribute")
        held.append(path)

    yield freeze
    for path in held:
        subprocess.run(["chattr", "-i", str(path)], check=True)


RUN_FOLDERS = {
    "a file for the runs": lambda: Path("elsewhere").write_text("x"),
    "a file for the run": lambda: (Path("elsewhere").mkdir(), Path("elsewhere/tiny").write_text("x")),
    "a file for the checkpoints": lambda: (Path("elsewhere/tiny").mkdir(parents=True), Path("elsewhere/tiny/checkpoints").write_text("x")),
    "a folder for the recipe": lambda: Path("elsewhere/tiny/recipe.yaml").mkdir(parents=True),
    "a folder for the ledger": lambda: Path("elsewhere/tiny/ledger.jsonl").mkdir(parents=True),
    "a folder for the facts": lambda: Path("elsewhere/tiny/run.json").mkdir(parents=True),
    "a link to nowhere": lambda: Path("elsewhere").symlink_to("/proc/nowhere"),
    "a link to itself": lambda: Path("elsewhere").symlink_to("elsewhere"),
}


@pytest.mark.parametrize("case", RUN_FOLDERS)
def test_run_folders_that_cannot_be_made(ingot: Any, place: Path, case: str) -> None:
    RUN_FOLDERS[case]()
    ingot.refuses("train", "tiny.yaml", "--runs", "elsewhere", status=1, words=("elsewhere",), keeps=(place,))


def test_a_read_only_disk(ingot: Any, place: Path, mounted: Any) -> None:
    room = mounted("size=32m")
    subprocess.run(["cp", "-r", "runs/tiny", str(room)], check=True)
    subprocess.run(["mount", "-o", "remount,ro", str(room)], check=True)
    for argv in (("train", "tiny.yaml", "--runs", room), ("train", "tiny.yaml", "name=other", "--runs", room), ("report", room / "tiny")):
        ingot.refuses(*argv, status=1, words=(str(room), "Read-only"), keeps=(room, place))
    assert ingot("evaluate", room / "tiny", "--json")[0] == 0
    assert ingot("generate", room / "tiny", "the", "--json", "--tokens", "3")[0] == 0


@pytest.mark.parametrize("what", ["tiny", "tiny/checkpoints", "tiny/ledger.jsonl", "tiny/run.json"])
def test_frozen_run_folders(ingot: Any, place: Path, frozen: Any, what: str) -> None:
    before = ingot.fingerprint(place / "runs" / "tiny" / "checkpoints")
    path = place / "runs" / what
    shutil.rmtree(place / "runs" / "tiny" / "checkpoints" / "step-00000006")
    before = {name: value for name, value in before.items() if "step-00000006" not in name}
    frozen(path)
    status, _, err = ingot("train", "tiny.yaml")
    assert status == 1 and "internal error" not in err and str(Path("runs") / what.split("/")[0]) in err, err
    assert len([line for line in err.splitlines() if line.strip()]) == 1, err
    assert ingot.fingerprint(place / "runs" / "tiny" / "checkpoints") == before
    whole(place / "runs" / "tiny" / "ledger.jsonl")


CACHES = {
    "a file for the cache": (lambda: Path("store").write_text("x"), 2),
    "a file for the tokens": (lambda: (Path("store").mkdir(), Path("store/tokens").write_text("x")), 1),
    "a file for the locks": (lambda: (Path("store/tokens").mkdir(parents=True), Path("store/tokens/locks").write_text("x")), 1),
    "a file for the tokenizers": (lambda: (Path("store").mkdir(), Path("store/tokenizers").write_text("x")), 1),
    "a link to nowhere": (lambda: Path("store").symlink_to("/proc/nowhere"), 2),
    "a file for the packs": (lambda: (Path("store").mkdir(), Path("store/packs").write_text("x")), 1),
}


@pytest.mark.parametrize("case", CACHES)
def test_caches_that_cannot_be_made(ingot: Any, write: Any, tmp_path: Path, case: str) -> None:
    act, status = CACHES[case]
    path = write({"data": {"cache": "store", "tokenizer": {"name": "bpe", "vocabulary": 400}, "pack": "best_fit"}})
    act()
    ingot.refuses("prepare", path, status=status, words=("store",), keeps=(tmp_path / "left", path))
    assert os.path.lexists("store")


def test_a_read_only_cache(ingot: Any, write: Any, mounted: Any) -> None:
    """What is prepared can be used where nothing can be written; what is not is one line."""
    room = mounted("size=32m")
    path = write({"data": {"cache": str(room / "cache")}})
    assert ingot("prepare", path)[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(room)], check=True)
    status, _, err = ingot("train", path)
    assert status == 0, err
    ingot.refuses("prepare", path, "data.holdout=0.3", status=1, words=(str(room), "Read-only"), keeps=(room,))
    other = write({"data": {"cache": str(room / "fresh")}}, name="other")
    ingot.refuses("prepare", other, status=2, words=(str(room / "fresh"), "Read-only"), keeps=(room,))
