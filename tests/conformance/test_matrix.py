"""The composition matrix: a seeded sample of it, cells of what has changed, and what was published.

The sample pairs every slot with a few columns, and takes one part of the slot for each. The whole matrix is measured by hand:
benchmarks/composition.py; docs/composition.md shows it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from _changed import changed

ROOT = Path(__file__).resolve().parents[2]


def _load(path: Path) -> Any:
    found = importlib.util.spec_from_file_location(f"matrix_test_{path.stem}", path)
    assert found is not None and found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


matrix = _load(Path(__file__).with_name("_matrix.py"))
PARTS = {part.name: part for part in matrix.parts()}
EACH, MOST = 3, 9  # columns for every slot; cells of what has changed
# Cells that the matrix once found wrong.
FOUND = [
    ("nn.position/relative", "fsdp"),
    ("nn.position/sincos", "wider"),
    ("nn.mixer/mlp_mixing", "deeper"),
    ("objective/multi_token", "deeper"),
    ("transform/ligo", "checkpointing"),
]


def changed_parts() -> list[str]:
    """Parts whose file is new or not as it was; see _changed.py."""
    listed = changed("src/ingot")
    return [name for name, part in PARTS.items() if f"src/ingot/{part.case.slot.replace('.', '/')}/{part.case.name}.py" in listed]


def sample() -> list[tuple[str, str]]:
    """(part, column), the same every time for the same parts."""
    found = []
    for slot in matrix.SLOTS:
        names = [name for name, part in PARTS.items() if part.case.slot == slot]
        for column in sorted(matrix.COLUMNS, key=lambda column: matrix.draw(slot, column))[:EACH]:
            found.append((min(names, key=lambda name: matrix.draw(name, column)), column))
    new = sorted(((name, column) for name in changed_parts() for column in matrix.COLUMNS), key=lambda cell: matrix.draw(*cell))[:MOST]
    return list(dict.fromkeys([*found, *new, *(cell for cell in FOUND if cell[0] in PARTS)]))


SAMPLE = sample()


@pytest.fixture(scope="module")
def ranked() -> dict[tuple[str, str], Any]:
    """The sample's cells of two ranks, all in one pair of processes."""
    found: dict[tuple[str, str], Any] = {}
    wanted = [(PARTS[name], column) for name, column in SAMPLE if column in matrix.RANKED]
    matrix.ranked_cells(wanted, lambda part, column, cell: found.setdefault((part.name, column), cell))
    return found


@pytest.mark.parametrize(("name", "column"), SAMPLE, ids=lambda value: value)
def test_equal_or_refused(name: str, column: str, request: pytest.FixtureRequest) -> None:
    try:
        assert PARTS[name].setup
    except matrix.CannotPlace as error:
        pytest.skip(f"in no recipe of the matrix: {error}")
    cell = request.getfixturevalue("ranked")[name, column] if column in matrix.RANKED else PARTS[name].cell(column)
    assert cell.verdict in ("equal", "tolerance", "refused"), f"{cell.verdict}: {cell.reason} ({cell.measured})"
    assert cell.reason or cell.verdict != "refused"


@pytest.mark.parametrize(("mixer", "says"), [("cross_attention", "another stack"), ("mlp_mixing", "every position")])
def test_a_mixer_that_cannot_be_there_is_refused_before_anything_starts(mixer: str, says: str) -> None:
    knobs = {"name": mixer} | ({"heads": 2} if mixer == "cross_attention" else {})
    tree = matrix.TEXT | {"model": matrix.TEXT["model"] | {"encoder": matrix.ENCODER | {"mixer": knobs}}}
    assert says in matrix.problems(matrix.Setup("", tree))


def test_every_column_and_slot_is_in_the_sample() -> None:
    assert {column for _, column in SAMPLE} == set(matrix.COLUMNS)
    assert {PARTS[name].case.slot for name, _ in SAMPLE} == set(matrix.SLOTS)


def test_published_results_hold_no_defect_and_the_page_shows_them() -> None:
    composition = _load(ROOT / "benchmarks" / "composition.py")
    wrong = {
        (part, column): cell
        for part, cells in composition.read().items()
        for column, cell in cells.items()
        if cell["verdict"] in matrix.DEFECTS
    }
    assert not wrong
    assert composition.PAGE.read_text(encoding="utf-8") == composition.published(), "run: python benchmarks/composition.py --write-docs"
    pairs = json.loads(composition.PAIRS.read_text(encoding="utf-8"))
    assert all(
        words == "trains" or words.startswith("refused: ")
        for table in pairs.values()
        for cells in table.values()
        for words in cells.values()
    )
