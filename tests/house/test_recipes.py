"""Every recipe and its tiny twin passes the static check, and is kept in a form that stays readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.build.check import check
from ingot.core.recipe import load, parse

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


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8
