"""A stage as the loop runs it: budget, rows, knobs and hooks, with every choice already made by the builder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..core.progress import Moment, Progress, next_moment
from ..core.quantities import Quantity

Micro = dict[str, Tensor]


class Windows(Protocol):
    """An open stream of this rank's windows, each a list of micro-batches on the device."""

    def __iter__(self) -> Iterator[list[Micro]]: ...
    def close(self) -> None: ...


def close(windows: Windows | None) -> None:
    """Close what is open."""
    if windows is not None:
        windows.close()


@dataclass
class Knob:
    """One scheduled value. curve: factor from a Moment; apply: sets factor x the recipe's value where it lives."""

    name: str
    curve: Callable[[Moment], float]
    apply: Callable[[float], None]


@dataclass
class Stage:
    """open(start row, rows per step, micro rows) -> windows; prepare: the objective's corruption; position: epochs at a row."""

    budget: Quantity
    batch_rows: int
    tokens_per_row: int
    micro_rows: int
    open: Callable[[int, int, int], Windows]
    prepare: Callable[[Micro], Micro]
    position: Callable[[int], float]
    hooks: Mapping[str, Any] = field(default_factory=dict)
    knobs: list[Knob] = field(default_factory=list)
    side: Mapping[str, float] = field(default_factory=dict)
    fused_backward: bool = False
    seconds_per_row: float = 0.0  # of audio
    evaluate: Callable[[], dict[str, dict[str, float]]] | None = None
    sample: Callable[[], list[dict[str, str]]] | None = None
    averaged: Callable[[], AbstractContextManager[None]] = nullcontext  # the weights to evaluate and sample with
    batch_factor: float = 1.0
    sources: list[str] = field(default_factory=list)  # names of its data's sources
    first: int = 0  # row of its data at which the stage begins
    last: int | None = None  # rows from there to where its data is used up; None where it goes on for ever

    @property
    def rows_per_step(self) -> int:
        """Global rows that the coming step trains on, after a scheduled batch factor."""
        return max(1, round(self.batch_rows * self.batch_factor))

    def micro(self, ranks: int) -> int:
        """Rows of a micro-batch of the coming step: no more than a rank's share of what is trained on, which a scheduled batch changes."""
        return min(self.micro_rows, -(-self.rows_per_step // ranks))

    @property
    def rows_read(self) -> int:
        """Global rows that the coming step reads: more than it trains on where hooks choose among them. The position moves by these."""
        return round(self.rows_per_step * math.prod(getattr(hook, "reads", 1.0) for hook in self.hooks.values()))

    def there(self, progress: Progress) -> tuple[int, int]:
        """Rows that the coming step reads and trains on: fewer than it would where the data ends within it."""
        read, trained = self.rows_read, self.rows_per_step
        found = read if self.last is None else min(read, self.last - progress.rows)
        return found, trained if found == read else max(1, round(trained * found / read))

    def per_step(self, progress: Progress, flops: float) -> dict[str, float]:
        """What the coming step is expected to spend, by unit; tokens and seconds follow what was measured so far. 0: not known yet."""
        rows = self.rows_read
        tokens = rows * progress.tokens / progress.rows if progress.tokens else self.rows_per_step * self.tokens_per_row
        seconds = (progress.seconds - progress.lost_seconds) / progress.steps if progress.steps else 0.0
        return {
            "steps": 1,
            "rows": rows,
            "tokens": tokens,
            "flops": flops,
            "seconds": seconds,
            "epochs": self.position(rows),
            "audio_seconds": self.rows_per_step * self.seconds_per_row,
        }

    def spent(self, progress: Progress, flops: float) -> bool:
        """Whether one more step would leave the budget further away than stopping here; at least one step is always made."""
        if not progress.rows:
            return self.budget.value <= 0
        left = self.budget.value - progress.spent(self.budget)
        return left <= 0 or (self.budget.unit != "steps" and left <= self.per_step(progress, flops)[self.budget.unit] / 2)

    def set_knobs(self, progress: Progress, flops: float) -> dict[str, float]:
        """Put every scheduled value in place for the coming step; the factors by knob."""
        moment = next_moment(progress, self.budget, self.per_step(progress, flops))
        return self.put_back({knob.name: knob.curve(moment) for knob in self.knobs})

    def put_back(self, factors: Mapping[str, float]) -> dict[str, float]:
        """Put every scheduled value where it was with these factors; the recipe's own value for those without."""
        found = {knob.name: float(factors.get(knob.name, 1.0)) for knob in self.knobs}
        for knob in self.knobs:
            knob.apply(found[knob.name])
        return found
