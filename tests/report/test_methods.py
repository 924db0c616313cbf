"""The pages of the methods and of the matrix, made from docstrings and results; and that docstrings hold what the pages are to show."""

from __future__ import annotations

import re

import pytest

from ingot.core.parts import Entry, parts_in
from ingot.report.composition import COLUMNS, page, row
from ingot.report.methods import document, facts, pages, title
from ingot.report.methods import page as method

METHODS = (
    "optim",
    "nn.linear",
    "nn.router",
    "nn.feedforward",
    "nn.mixer",
    "nn.block",
    "nn.norm",
    "nn.position",
    "model.encoder",
    "model.decoder",
    "model.init",
    "objective",
    "hook",
    "transform",
    "schedule",
    "scaling.form",
)
COSTS = (
    "optim",
    "nn.linear",
    "nn.router",
    "nn.feedforward",
    "nn.mixer",
    "model.encoder",
    "model.decoder",
    "objective",
    "hook",
    "transform",
)
STATES = ("optim", "nn.router", "hook", "nn.linear")
SOURCE = re.compile(r"arXiv:|doi:|https?://|\b(19|20)\d\d\b|\bNo paper:")


def entries(slots: tuple[str, ...]) -> list[Entry]:
    return [entry for slot in slots for entry in parts_in(slot).values() if entry.path is not None]


def of(entry: Entry) -> str:
    return f"{entry.slot}/{entry.name}"


@pytest.mark.parametrize("entry", entries(METHODS), ids=of)
def test_names_its_paper_or_says_why_there_is_none(entry: Entry) -> None:
    assert len(title(entry)[0]) > 5
    assert SOURCE.search(document(entry)), "wants the paper, or a line 'No paper: why'"


@pytest.mark.parametrize("entry", entries(COSTS), ids=of)
def test_says_what_it_costs(entry: Entry) -> None:
    assert facts(document(entry)).get("Cost"), "wants a line 'Cost: ...'"


@pytest.mark.parametrize("entry", entries(STATES), ids=of)
def test_says_what_it_keeps(entry: Entry) -> None:
    assert facts(document(entry)).get("State"), "wants a line 'State: ...'"


def test_every_part_has_its_page() -> None:
    cells = {"resume": {"verdict": "equal"}, "fsdp": {"verdict": "refused", "reason": "no shards"}}
    made = dict(pages({("optim", "galore"): ["recipes/optim/galore.yaml"]}, {"optim/galore": cells}))
    shown = made["optim/galore.md"]
    assert shown.startswith("# GaLore") and "arxiv.org/abs/2403.03507" in shown and "`recipes/optim/galore.yaml`" in shown
    assert "B = the leading" in shown and "**State.** rank" in shown and "**Cost.** 4 rows" in shown and "| `rank` |" in shown
    assert "resume equal" in shown and "FSDP2 refused (no shards)" in shown and "bf16 not run" in shown
    assert "(optim/galore.md)" in made["index.md"] and len(made) > 100


def test_many_recipes_are_shortened() -> None:
    shown = method(parts_in("optim")["lion"], [f"recipes/{number}.yaml" for number in range(20)], None)
    assert "and 12 more" in shown and "**Composition" not in shown


def test_facts_end_where_the_next_begins() -> None:
    found = facts("Shapes: a.   State: one tensor\nper weight.   Cost: nothing.\n\nMore: text.")
    assert found == {"State": "one tensor per weight.", "Cost": "nothing."}


def test_the_matrix_hides_nothing() -> None:
    results = {
        "optim/a": {
            "resume": {"verdict": "equal"},
            "fsdp": {"verdict": "tolerance", "measured": 3e-16},
            "wider": {"verdict": "refused", "reason": "not\nso"},
        },
        "optim/b": {"wider": {"verdict": "refused", "reason": "not so"}, "bf16": {"verdict": "crash", "reason": "a | b"}},
    }
    shown = page(results, {"Pairs": {"a": {"x": "trains"}, "b": {"y": "refused: no"}}})
    rows = next(line for line in shown.splitlines() if line.startswith("| `a`"))
    assert "equal to 3e-16" in rows and "refused (1)" in rows and rows.count("not run") == len(COLUMNS) - 3
    assert shown.count("1. not so") == 1 and "**fails** (2)" in shown and "1 wrong" in shown and "trains" in shown
    assert "grown wider refused (not" in row(results["optim/a"])
