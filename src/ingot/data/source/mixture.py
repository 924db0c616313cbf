"""Several sources by weight, perhaps changing at given rows.

    weights   share of each source, normalized; without them in proportion to rows
    phases    from the row ``start`` on, other weights
    max_epochs    most times a source may be gone through; then its share goes to the others

In every window of 1,000 rows with constant weights each source's count is within one of its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import Problem, UserError
from ...core.parts import NonNegative, Positive, Slot, part, section
from ...core.quantities import Budget
from ...core.resolve import nearest
from ..mix import Mixture as Order


@section
@dataclass(kw_only=True)
class Phase:
    """weights hold from ``start`` (rows, or tokens of full rows) on."""

    start: Budget
    weights: dict[str, NonNegative[float]]


@part
class Mixture:
    """sources: parts of data.source by name; the name seeds a source's order and labels its results."""

    def __init__(self, folder: Path, *, sources: dict[str, Slot["data.source"]], weights: dict[str, NonNegative[float]] | None = None,
                 phases: list[Phase] | None = None, max_epochs: dict[str, Positive[float]] | None = None):  # fmt: skip
        self.specs, self.weights, self.phases, self.max_epochs = sources, weights, list(phases or []), max_epochs or {}
        self._check()
        self.sources = {name: spec.build(folder=folder) for name, spec in sources.items()}
        nested = [name for name, source in self.sources.items() if hasattr(source, "order")]
        if nested:
            raise UserError([Problem(f"sources.{name}", "a mixture cannot hold a mixture: name its sources here") for name in nested])

    def _check(self) -> None:
        problems = [] if self.specs else [Problem("sources", "wants at least one source")]
        tables = {"weights": self.weights or {}, "max_epochs": self.max_epochs} | {f"phases.{i}.weights": p.weights for i, p in enumerate(self.phases)}
        for where, table in tables.items():
            problems += [Problem(where, f"there is no source named {name!r}. {nearest(name, self.specs)}".strip()) for name in table if name not in self.specs]
        for where, table in tables.items():
            if where != "max_epochs" and table and not sum(table.values()) > 0:
                problems.append(Problem(where, "wants at least one weight above 0"))
        missing = [name for name in self.specs if self.weights is not None and name not in self.weights]
        problems += [Problem("weights", f"gives no weight to source {name!r}; write 0 to leave it out") for name in missing]
        if problems:
            raise UserError(problems)

    def order(self, lengths: Mapping[str, int], sequence: int) -> Order:
        """The mixture over sources of so many rows each. Raises UserError for phases that do not follow one another."""
        first = self.weights if self.weights is not None else {name: float(count) for name, count in lengths.items()}
        starts, weights = [0], [[first[name] for name in lengths]]
        for index, phase in enumerate(self.phases):
            start = _row(phase, index, sequence)
            if start < starts[-1] or (start == starts[-1] and index):
                raise UserError([Problem(f"phases.{index}.start", f"wants a row after the phase before it, {starts[-1]:,}; got {start:,}")])
            share = [phase.weights.get(name, 0.0) for name in lengths]
            if start == 0:
                weights[0] = share
                continue
            starts.append(start)
            weights.append(share)
        caps = [round(self.max_epochs[name] * count) if name in self.max_epochs else None for name, count in lengths.items()]
        return Order(starts, weights, caps)


def _row(phase: Any, index: int, sequence: int) -> int:
    if phase.start.unit not in ("rows", "tokens"):
        raise UserError([Problem(f"phases.{index}.start", f"wants rows or tokens, got {phase.start}: the data order is a function of rows alone")])
    return round(phase.start.value / (sequence if phase.start.unit == "tokens" else 1))
