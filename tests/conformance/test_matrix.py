"""The composition matrix: a seeded sample of it, cells of what has changed, and what was published.

The sample pairs every slot with a few columns, and takes one part of the slot for each. The whole matrix is measured by hand:
benchmarks/composition.py; docs/composition.md shows it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from _changed import changed

from ingot.core.parts import parts_in
from ingot.report.composition import page, row

ROOT = Path(__file__).resolve().parents[2]


def _load(path: Path) -> Any:
    found = importlib.util.spec_from_file_location(f"matrix_test_{path.stem}", path)
    assert found is not None and found.loader is not None
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


matrix, sources = (_load(Path(__file__).with_name(name)) for name in ("_matrix.py", "_sources.py"))
PARTS = {part.name: part for part in matrix.parts()}
EACH, MOST = 3, 6  # columns for every slot; cells of what depends on a change, beside every column of one part that is new or edited
# Cells that the matrix once found wrong.
FOUND = [
    ("nn.position/relative", "fsdp"),
    ("nn.position/sincos", "wider"),
    ("nn.mixer/mlp_mixing", "deeper"),
    ("objective/multi_token", "deeper"),
    ("transform/ligo", "checkpointing"),
]


def file_of(part: Any) -> str:
    """The part's own file, relative to the package."""
    return f"{part.case.slot.replace('.', '/')}/{part.case.name}.py"


def changed_cells(listed: Iterable[str]) -> list[tuple[str, str]]:
    """What to look at when these files of the package are new or not as they were: every column of one part among those whose own file
    is one of them, and some of the cells that depend on them through a helper, or through their column."""
    files, everything = set(listed), set(sources.ALWAYS)
    edited = sorted((name for name, part in PARTS.items() if file_of(part) in files), key=matrix.draw)
    first = [(name, column) for name in edited[:1] for column in matrix.COLUMNS]
    rest = [
        (name, column)
        for name, part in PARTS.items()
        for column in matrix.COLUMNS
        if files & (sources.of(part.case.slot, part.case.name, column) - everything) or (files & everything and name == "optim/adamw")
    ]
    return list(dict.fromkeys([*first, *sorted(set(rest) - set(first), key=lambda cell: matrix.draw(*cell))[:MOST]]))


def sample() -> list[tuple[str, str]]:
    """(part, column), the same every time for the same parts."""
    found = []
    for slot in matrix.SLOTS:
        names = [name for name, part in PARTS.items() if part.case.slot == slot]
        for column in sorted(matrix.COLUMNS, key=lambda column: matrix.draw(slot, column))[:EACH]:
            found.append((min(names, key=lambda name: matrix.draw(name, column)), column))
    new = changed_cells(path.removeprefix("src/ingot/") for path in changed("src/ingot"))
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


def test_a_helper_is_a_change_of_every_part_that_imports_it() -> None:
    assert "optim/_projection.py" in sources.own("optim", "galore") and "optim/_groups.py" in sources.own("optim", "galore")
    assert "optim/_projection.py" not in sources.own("optim", "adamw") and not any(
        file.startswith("core/") for file in sources.own("optim", "lion")
    )
    found = changed_cells(["optim/_quantize.py"])
    assert len(found) == MOST and all("optim/_quantize.py" in sources.own("optim", name.split("/")[1].split(":")[0]) for name, _ in found)
    assert {column for _, column in changed_cells(["train/fused_backward.py"])} == {"fused_backward"}
    assert {name for name, _ in changed_cells(["train/step.py"])} == {"optim/adamw"}
    edited = changed_cells(["optim/lion.py"])
    assert {column for name, column in edited if name == "optim/lion"} == set(matrix.COLUMNS)
    assert changed_cells(["report/page.py"]) == []


def test_a_cell_is_stale_when_the_code_it_depends_on_changes_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    composition, part = _load(ROOT / "benchmarks" / "composition.py"), PARTS["optim/galore"]
    marks = sys.modules.setdefault("_sources", sources)  # what the benchmark imports
    cell = {"verdict": "equal", "sources": marks.mark("optim", "galore", "wider")}
    assert not composition.stale(part, "wider", cell)
    assert composition.stale(part, "wider", {"verdict": "equal"}), "unknown is stale"
    right = marks.code
    for file, counts in (
        ("optim/_projection.py", True),
        ("transform/widen.py", True),
        ("train/step.py", True),
        ("train/fused_backward.py", False),
    ):
        monkeypatch.setattr(marks, "code", lambda name, file=file: right(name) + "\nchanged" * (name == file))
        assert composition.stale(part, "wider", cell) == counts, file
    file = Path(marks.PACKAGE) / "optim" / "galore.py"
    assert (
        "Zhao et al." in file.read_text() and "Zhao et al." not in right("optim/galore.py") and "class GaLore" in right("optim/galore.py")
    )


def test_every_cell_and_every_pair_is_published() -> None:
    """No part without its row, no row without a column, no optimizer without a linear, no router without a placement of norms. What of the
    variants was not measured yet the page shows as not run."""
    composition = _load(ROOT / "benchmarks" / "composition.py")
    results, pairs = composition.read(), json.loads(composition.PAIRS.read_text(encoding="utf-8"))
    variants = set(matrix.variants.NAMES)
    nowhere = [name for name, part in PARTS.items() if name not in variants and name not in results and placed(part)]
    missing = [(name, column) for name in results.keys() - variants for column in matrix.COLUMNS if column not in results[name]]
    assert not nowhere and not missing, "run: python benchmarks/composition.py"
    shown, open_cells = composition.published(), [(n, c) for n in variants for c in matrix.COLUMNS if c not in results.get(n, {})]
    assert shown.count("| not run") == len(open_cells) and all(f"| `{name.partition('/')[2]}` |" in shown for name in variants)
    assert not results.keys() - PARTS.keys(), "rows of parts that are no more"
    for title, rows, columns in (
        ("An optimizer and a linear", "optim", "nn.linear"),
        ("A router and a placement of norms", "nn.router", "nn.block"),
    ):
        table = pairs[title]
        wanted = {(row, column) for row in parts_in(rows) for column in parts_in(columns)}
        assert {(row, column) for row, cells in table.items() for column in cells} == wanted, (
            f"run: python benchmarks/composition.py --pairs ({title})"
        )


def placed(part: Any) -> bool:
    """Whether some recipe holds the part."""
    try:
        return bool(part.setup)
    except matrix.CannotPlace:
        return False


def test_the_page_says_what_an_equal_cell_could_not_carry() -> None:
    cell = {"verdict": "equal", "measured": 0.0, "reason": "state starts\nafresh"}
    near = {"verdict": "tolerance", "measured": 3e-16, "reason": "state starts afresh"}
    shown = page({"optim/a": {"wider": cell, "deeper": near}})
    assert "equal (1)" in shown and "equal to 3e-16 (1)" in shown and shown.count("state starts afresh") == 1
    assert "grown wider equal (state starts afresh)" in row({"wider": cell})


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
