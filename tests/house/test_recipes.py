"""Every recipe and its tiny twin passes the static check and is kept in a form that stays readable; tiny twins train: a few drawn ones
and those that have changed. benchmarks/recipes.py trains them all.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from _changed import changed

import ingot
import ingot.ledger.machine
from ingot.build.check import check
from ingot.core.recipe import load, parse
from ingot.parallel.start import finish

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "recipes"))


@pytest.mark.parametrize("tiny", [False, True], ids=["full", "tiny"])
@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_checks(path: Path, tiny: bool) -> None:
    _, problems = check(load(path, tiny=tiny))
    assert not problems, "\n".join(map(str, problems))


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "the first line of a recipe says what it is for"
    assert "name" not in parse(text, path.name).tree, "a recipe is named by its file"


def drawn(count: int = 6, most: int = 12, seed: int = 2) -> list[Path]:
    """The same few every time for the same recipes, and so many at most of those that have changed."""
    order = sorted(RECIPES, key=lambda path: zlib.crc32(f"{seed}/{name(path)}".encode()))
    new = set(changed("recipes"))
    return list(dict.fromkeys([*order[:count], *[path for path in order if str(path.relative_to(ROOT)) in new][:most]]))


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_speed: None) -> Iterator[None]:
    """A working directory of its own, and no process group left behind."""
    monkeypatch.chdir(tmp_path)
    yield
    finish()


@pytest.mark.parametrize("path", drawn(), ids=name)
def test_the_tiny_twin_trains(path: Path, apart: None) -> None:
    run = ingot.build(ingot.load_recipe(path, tiny=True))
    assert run.train()["reason"] == "finished"
    lines = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses and all(map(math.isfinite, losses))
    assert not [line for line in lines if line.get("name") in ("nonfinite", "skip", "rollback")]


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8
