"""The composition matrix in full, by hand; see tests/conformance/_matrix.py for what a cell is.

    python benchmarks/composition.py                      what is not measured yet, as far as it gets
    python benchmarks/composition.py --only optim --columns fsdp,resume --budget 20
    python benchmarks/composition.py --again              everything afresh (some two hours on two cores)
    python benchmarks/composition.py --defects            what was found wrong, once more
    python benchmarks/composition.py --write-docs         docs/composition.md from the results, measuring nothing

Results are kept cell by cell in benchmarks/results/composition.json, so a run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "conformance")]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "composition.json", ROOT / "docs" / "composition.md"

Results = dict[str, dict[str, dict[str, Any]]]


def read() -> Results:
    """Cells by part and column; empty before the first run."""
    found: Results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return found


def write(results: Results) -> None:
    aside = RESULTS.with_suffix(".new")
    lines = (f" {json.dumps(part)}: {{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(cell)}" for name, cell in sorted(cells.items())) + "\n }" for part, cells in sorted(results.items()))
    aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(aside, RESULTS)


def measure(arguments: argparse.Namespace) -> None:
    """Every wanted cell within the budget."""
    import torch

    import _matrix

    torch.set_num_threads(1)
    results, deadline = read(), time.monotonic() + 60 * arguments.budget
    wanted = [name for name in (arguments.columns.split(",") if arguments.columns else _matrix.COLUMNS)]

    def due(part: Any, name: str) -> bool:
        known = results.get(part.name, {}).get(name)
        return known is None or arguments.again or (arguments.defects and known["verdict"] in (*_matrix.DEFECTS, "unplaced"))

    def say(part: Any, name: str, cell: Any) -> None:
        results.setdefault(part.name, {})[name] = cell.as_dict()
        write(results)
        print(f"{part.name:<32} {name:<15} {cell.verdict:<10} {'' if cell.measured is None else format(cell.measured, '.0e'):<7} {cell.reason[:150]}", flush=True)

    rows = []
    for part in _matrix.parts():
        if part.name.startswith(arguments.only) and any(due(part, name) for name in wanted):
            try:
                rows.append((part, part.setup))
            except _matrix.CannotPlace as error:
                print(f"{part.name:<32} has no recipe here: {error}", flush=True)
    # The dear columns last, each in one go.
    for names in ([name for name in _matrix.ALONE if name != "compile"], _matrix.RANKED, ["compile"]):
        for start in range(0, len(rows), 12):
            some = [(part, name) for part, _ in rows[start : start + 12] for name in names if name in wanted and due(part, name)]
            if names is _matrix.RANKED and some and time.monotonic() < deadline:
                _matrix.ranked_cells(some, say)
                continue
            for part, name in some:
                if time.monotonic() > deadline:
                    return
                say(part, name, part.cell(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts whose slot/name begins so")
    parser.add_argument("--columns", default="", help="some columns, with commas")
    parser.add_argument("--budget", type=float, default=170.0, help="minutes")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--defects", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    arguments = parser.parse_args()
    if not arguments.write_docs:
        measure(arguments)
    from ingot.report.composition import page

    PAGE.write_text(page(read(), pairs()), encoding="utf-8")


def pairs() -> dict[str, Any]:
    return {}


if __name__ == "__main__":
    main()
