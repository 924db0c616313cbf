"""The composition matrix in full, by hand; see tests/conformance/_matrix.py for what a cell is.

    python benchmarks/composition.py                      what is not measured yet or stale, as far as it gets
    python benchmarks/composition.py --stale              how many cells are stale, by slot and column, measuring nothing
    python benchmarks/composition.py --only optim --columns fsdp,resume --budget 20
    python benchmarks/composition.py --again              everything afresh (some two hours on two cores)
    python benchmarks/composition.py --defects            what was found wrong, once more
    python benchmarks/composition.py --pairs              optimizer and linear, router and placement of norms
    python benchmarks/composition.py --write-docs         docs/composition.md from the results, measuring nothing

Results are kept cell by cell in benchmarks/results/composition.json, so a run that is stopped goes on where it was. A cell carries a
hash of the sources that it depends on (tests/conformance/_sources.py); it is stale once they have changed, or where it has none.
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
RESULTS, PAIRS = (ROOT / "benchmarks" / "results" / f"{name}.json" for name in ("composition", "pairs"))
PAGE = ROOT / "docs" / "composition.md"

Results = dict[str, dict[str, dict[str, Any]]]


def read() -> Results:
    """Cells by part and column; empty before the first run."""
    found: Results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return found


def write(results: Results) -> None:
    aside = RESULTS.with_suffix(".new")
    lines = (
        f" {json.dumps(part)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(cell)}" for name, cell in sorted(cells.items()))
        + "\n }"
        for part, cells in sorted(results.items())
    )
    aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(aside, RESULTS)


def stale(part: Any, column: str, cell: dict[str, Any]) -> bool:
    """Whether what the cell depends on is not as it was when it was measured."""
    import _sources

    found: bool = cell.get("sources", "unknown") != _sources.mark(part.case.slot, part.case.name, column)
    return found


def say_stale() -> None:
    """Print how many cells are stale, of how many, by slot and column."""
    import _matrix

    results, counts = read(), {}
    for part in _matrix.parts():
        for column in _matrix.COLUMNS:
            cell = results.get(part.name, {}).get(column)
            counts.setdefault(part.case.slot, {}).setdefault(column, []).append(cell is None or stale(part, column, cell))
    for slot, columns in counts.items():
        print(f"{slot:<16}", " ".join(f"{column} {sum(found)}/{len(found)}" for column, found in columns.items()))


def measure(arguments: argparse.Namespace) -> None:
    """Every wanted cell within the budget."""
    import _matrix
    import _sources
    import torch

    torch.set_num_threads(1)
    _matrix.COMPILER = arguments.compiler
    results, deadline = read(), time.monotonic() + 60 * arguments.budget
    wanted = list(arguments.columns.split(",") if arguments.columns else _matrix.COLUMNS)

    def due(part: Any, name: str) -> bool:
        known = results.get(part.name, {}).get(name)
        if arguments.defects:
            return known is None or known["verdict"] in _matrix.DEFECTS
        return known is None or arguments.again or stale(part, name, known)

    def say(part: Any, name: str, cell: Any) -> None:
        sources = _sources.mark(part.case.slot, part.case.name, name)
        results.setdefault(part.name, {})[name] = cell.as_dict() | {"sources": sources}
        write(results)
        print(
            f"{part.name:<32} {name:<15} {cell.verdict:<10} {'' if cell.measured is None else format(cell.measured, '.0e'):<7} {cell.reason[:150]}",
            flush=True,
        )

    rows = []
    for part in _matrix.parts():
        if part.name.startswith(tuple(arguments.only.split(","))) and any(due(part, name) for name in wanted):
            try:
                rows.append((part, part.setup))
            except _matrix.CannotPlace as error:
                print(f"{part.name:<32} has no recipe here: {error}", flush=True)
    # Compiling is dear, so it comes last; two ranks are started once for a dozen parts.
    alone = [name for name in _matrix.ALONE if name != "compile"]
    for names in ([*_matrix.RANKED, *alone], ["compile"]):
        for start in range(0, len(rows), 12):
            some = [(part, name) for part, _ in rows[start : start + 12] for name in names if name in wanted and due(part, name)]
            if time.monotonic() > deadline:
                return
            _matrix.ranked_cells([cell for cell in some if cell[1] in _matrix.RANKED], say)
            for part, name in some:
                if name not in _matrix.RANKED and time.monotonic() < deadline:
                    say(part, name, part.cell(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts whose slot/name begins so; several with commas")
    parser.add_argument("--columns", default="", help="some columns, with commas")
    parser.add_argument("--budget", type=float, default=170.0, help="minutes")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--compiler", default="inductor", help="backend of the column compile; aot_eager takes a tenth of the time")
    parser.add_argument("--defects", action="store_true")
    parser.add_argument("--stale", action="store_true", help="say how many cells are stale, and stop")
    parser.add_argument("--pairs", action="store_true", help="the tables of pairs afresh")
    parser.add_argument("--write-docs", action="store_true")
    arguments = parser.parse_args()
    if arguments.stale:
        return say_stale()
    if not arguments.write_docs and not arguments.pairs:
        measure(arguments)
    if arguments.pairs or not PAIRS.exists():
        PAIRS.write_text(json.dumps(pairs(), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(published(), encoding="utf-8")


def published() -> str:
    """The page that the results make; a variant that was never measured is shown as not run."""
    import _variants

    from ingot.report.composition import page

    return page({name: {} for name in _variants.NAMES} | read(), json.loads(PAIRS.read_text(encoding="utf-8")) if PAIRS.exists() else {})


def pairs() -> dict[str, dict[str, dict[str, str]]]:
    """Every optimizer with every linear, and every router with every placement of norms, by the suites' own tests."""
    import _matrix
    import torch

    from ingot.build.groups import parameter_groups
    from ingot.core.errors import UserError
    from ingot.core.parts import parts_in
    from ingot.core.resolve import spec

    torch.set_num_threads(1)
    suite, linears, routers = _matrix.suite, _matrix.beside("test_pairs"), _matrix.beside("test_router")

    def outcome(test: Any) -> str:
        try:
            test()
        except AssertionError:
            return "**fails**"
        return "trains"

    def optimized(case: Any, linear: str) -> str:
        model = linears.model_of(linear)
        try:
            case.spec(lr=0.003).build(params=parameter_groups(model, spec("model.init", "normal").build()), model=model)
        except UserError as error:
            return f"refused: {error}"
        return outcome(lambda: linears.test_trains_or_is_refused(case, linear, suite.batches.batch))

    def routed(case: Any, placement: str) -> str:
        return outcome(lambda: routers.test_trains_under_every_norm_placement(case, placement, suite.randomize, suite.batches.batch))

    return {
        "An optimizer and a linear": {
            case.name: {name: optimized(case, name) for name in parts_in("nn.linear")} for case in suite.cases("optim") if not case.number
        },
        "A router and a placement of norms": {
            case.name: {name: routed(case, name) for name in parts_in("nn.block")} for case in suite.cases("nn.router") if not case.number
        },
    }


if __name__ == "__main__":
    main()
