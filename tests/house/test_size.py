"""A file is one room: none much over 500 lines, and the loop under 300."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("src", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_two_rooms(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 550


def test_the_loop_reads_on_one_sitting() -> None:
    assert len((ROOT / "src/ingot/train/loop.py").read_text(encoding="utf-8").splitlines()) < 300


def test_no_utils_folder() -> None:
    assert not [path for path in (ROOT / "src").rglob("*") if path.stem in ("utils", "util", "helpers", "common", "misc")]
