"""Bad input through the real command line: what each case must show, and what it must leave alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main
from ingot.core.recipe import dump

SUMMARY = (" error.", " errors.", "nothing was started.")


def fingerprint(*places: Path) -> dict[str, str]:
    """Content hash of every file below the places, by path; links by where they point."""
    files = [item for place in places for item in ([place] if place.is_file() else place.rglob("*"))]
    return {
        str(item): f"-> {item.readlink()}" if item.is_symlink() else hashlib.sha256(item.read_bytes()).hexdigest()
        for item in files
        if item.is_symlink() or item.is_file()
    }


class Ingot:
    """The command line in this process. refuses: exit status, one line a problem, each of the words somewhere, and files left alone."""

    def __init__(self, capfd: pytest.CaptureFixture[str]):
        self.capfd = capfd

    fingerprint = staticmethod(fingerprint)

    def __call__(self, *argv: object) -> tuple[int, str, str]:
        self.capfd.readouterr()
        status = main([str(item) for item in argv])
        shown = self.capfd.readouterr()
        return status, shown.out, shown.err

    def refuses(
        self, *argv: object, status: int, words: tuple[str, ...] | str, problems: int | None = 1, keeps: tuple[Path, ...] = ()
    ) -> list[str]:
        """The lines of the problems. problems: how many there are, None where it does not matter."""
        before = fingerprint(*keeps)
        found, out, err = self(*argv)
        shown = f"{' '.join(map(str, argv))}\n{out}\n{err}"
        assert "Traceback" not in shown and "internal error" not in shown, shown
        assert found == status, shown
        lines = [line for line in err.splitlines() if line.strip() and not line.startswith("  ") and not line.rstrip().endswith(SUMMARY)]
        if problems is not None:
            assert len(lines) == problems, shown
        for word in (words,) if isinstance(words, str) else words:
            assert word in err, f"{word!r} is not in\n{shown}"
        assert all(line.isprintable() for line in lines), repr(err)
        after = fingerprint(*keeps)
        assert {path: after.get(path) for path in before} == before, "what was there before was changed"
        return lines


@pytest.fixture
def ingot(capfd: pytest.CaptureFixture[str]) -> Ingot:
    return Ingot(capfd)


@pytest.fixture
def write(tmp_path: Path, tiny_recipe: Any) -> Callable[..., Path]:
    """Writes a tiny recipe with changes to a file in the working directory."""

    def make(*patches: dict[str, Any], name: str = "tiny") -> Path:
        tree = tiny_recipe(
            {
                "stages": {0: {"budget": "4 steps", "batch": "4 rows"}},
                "evaluate": {"every": "100%", "rows": 4},
                "checkpoint": {"every": "2 steps"},
            },
            *patches,
            name=name,
        ).tree
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump(tree), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a finished run of three checkpoints; tests take copies."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("shared_fixtures", Path(__file__).resolve().parents[1] / "conftest.py")
    assert spec is not None and spec.loader is not None
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for index, side in enumerate(("left", "right")):
            shared.write_corpus(folder / side, seed=index)
        tree = {
            "name": "tiny",
            "precision": "fp32",
            "compile": False,
            "micro_rows": 4,
            "data": {"train": {"name": "text_files", "paths": ["left", "right"]}, "holdout": 0.2, "tokenizer": "bytes", "sequence": 32},
            "model": {
                "width": 32,
                "embedding": "token",
                "objective": "causal_lm",
                "encoder": {
                    "name": "transformer",
                    "depth": 2,
                    "mixer": {"name": "attention", "heads": 2},
                    "feedforward": "swiglu",
                    "norm": "rms",
                },
            },
            "stages": [{"budget": "6 steps", "batch": "4 rows", "optimizer": {"name": "adamw", "lr": 0.003}}],
            "evaluate": {"every": "100%", "rows": 4},
            "checkpoint": {"every": "2 steps", "keep_last": 9},
            "log": {"tensorboard": False},
        }
        (folder / "tiny.yaml").write_text(dump(tree), encoding="utf-8")
        assert main(["train", "tiny.yaml"]) == 0
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run's working directory, which is the working directory of the test."""
    folder = tmp_path / "place"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


class Disk:
    """Places that can be filled up. Mounted: small file systems of their own. Limited: folders in a process whose files may not grow.

    full: what the system says of a write that has no room. Limited knows nothing of the room that is left, so what is forecast from it
    cannot be tried there.
    """

    def __init__(self, folder: Path, mounted: bool):
        self.folder, self.mounted = folder, mounted
        self.full = "No space left" if mounted else "File too large"
        self.places: list[Path] = []

    def __call__(self, options: str) -> Path:
        place = self.folder / f"disk{len(self.places)}"
        place.mkdir()
        if self.mounted:
            try:
                done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True)
            except FileNotFoundError:
                pytest.skip("no mount command")
            if done.returncode:
                pytest.skip("mounting is not permitted")
        self.places.append(place)
        return place

    def fill(self, place: Path, leave: int = 0, file: str = "") -> None:
        """Take all room but so many bytes. file: the one that is to find none, by its name below the place."""
        if self.mounted:
            room = os.statvfs(place)
            with open(place / "filler", "ab", buffering=0) as filler, contextlib.suppress(OSError):
                for _ in range(max(0, room.f_bavail * room.f_frsize - leave) // 4096):
                    filler.write(bytes(4096))
        else:
            # Below 4 kB what the test itself writes down would find no room; 64 kB is less than the files that are to fail.
            largest = max((path.stat().st_size for path in place.rglob(file)), default=0) if file else 4096
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest + min(leave, 65536), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def clear(self, place: Path) -> None:
        """Give the room back."""
        if self.mounted:
            with contextlib.suppress(OSError):  # where the test made the whole disk read-only
                (place / "filler").unlink(missing_ok=True)
        else:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    def close(self) -> None:
        for place in self.places:
            self.clear(place)
            if self.mounted:
                subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(params=["mounted", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk that can be full, in both ways; the first is skipped where mounting is not permitted, the second always runs."""
    found = Disk(tmp_path, request.param == "mounted")
    yield found
    found.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Disk]:
    """A file system of its own, for tests that need one; skipped where mounting is not permitted."""
    found = Disk(tmp_path, True)
    yield found
    found.close()
