"""Several sources by weight, perhaps changing at given rows.

    weights   share of each source, normalized; without them in proportion to rows
    phases    from the row ``start`` on, other weights
    max_epochs    most times a source may be gone through; then its share goes to the others

In every window of 1,000 rows with constant weights each source's count is within one of its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

    def __init__(
        self,
        folder: Path,
        *,
        sources: dict[str, Slot["data.source"]],
        weights: dict[str, NonNegative[float]] | None = None,
        phases: list[Phase] | None = None,
        max_epochs: dict[str, Positive[float]] | None = None,
    ):
        self.specs, self.weights, self.phases, self.max_epochs = sources, weights, list(phases or []), max_epochs or {}
        if problems := _problems(sources, weights, phases, max_epochs):
            raise UserError(problems)
        self.sources = {name: spec.build(folder=folder) for name, spec in sources.items()}

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from map(str, _problems(**knobs))

    def order(self, lengths: Mapping[str, int], sequence: int) -> Order:
        """The mixture over sources of so many rows each. Raises UserError for phases that do not follow one another."""
        first = self.weights if self.weights is not None else {name: float(count) for name, count in lengths.items()}
        starts, weights = [0], [[first[name] for name in lengths]]
        for index, phase in enumerate(self.phases):
            start = _row(phase, sequence)
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


def _problems(
    sources: dict[str, Any], weights: dict[str, float] | None, phases: list[Phase] | None, max_epochs: dict[str, float] | None
) -> list[Problem]:
    """What can be known to be wrong before any source is read."""
    problems = [] if sources else [Problem("sources", "wants at least one source")]
    problems += [
        Problem(f"sources.{name}", "a mixture cannot hold a mixture: name its sources here")
        for name, spec in sources.items()
        if hasattr(spec.target, "order")
    ]
    shares = {"weights": weights or {}} | {f"phases.{i}.weights": phase.weights for i, phase in enumerate(phases or [])}
    for where, table in (shares | {"max_epochs": max_epochs or {}}).items():
        problems += [
            Problem(where, f"there is no source named {name!r}. {nearest(name, sources)}".strip()) for name in table if name not in sources
        ]
    problems += [
        Problem(where, "wants at least one weight above 0")
        for where, table in shares.items()
        if not sum(table.values()) > 0 and (table or where != "weights")
    ]
    missing = [name for name in sources if weights is not None and name not in weights]
    problems += [Problem("weights", f"gives no weight to source {name!r}; write 0 to leave it out") for name in missing]
    units = [(i, phase.start) for i, phase in enumerate(phases or []) if phase.start.unit not in ("rows", "tokens")]
    return problems + [
        Problem(f"phases.{i}.start", f"wants rows or tokens, got {start}: the data order is a function of rows alone") for i, start in units
    ]


def _row(phase: Phase, sequence: int) -> int:
    return round(phase.start.value / (sequence if phase.start.unit == "tokens" else 1))
