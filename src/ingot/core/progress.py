"""Where a run stands, as numbers; budgets, schedules and data order are functions of these alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .quantities import Quantity

MEASURED = ("flops", "seconds")  # what a step spends of these is known only once one is made
FIRST = 1e-3  # of any span in them: where the first step stands, as in a warm-up of 500 steps, so that it moves and is not too large


@dataclass
class Progress:
    """Spent so far. The plain counters are of the current stage; ``total_*`` are of the whole run.

    rows is also the global position in the data stream of the stage: the next window starts at this row. lost_seconds: of the seconds,
    those of steps that were undone.
    """

    stage: int = 0
    entering: bool = True
    steps: int = 0
    rows: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    lost_seconds: float = 0.0
    audio_seconds: float = 0.0
    epochs: float = 0.0
    total_steps: int = 0
    total_rows: int = 0
    total_tokens: int = 0
    total_flops: float = 0.0
    total_seconds: float = 0.0

    def advance(self, *, rows: int, tokens: int, flops: float, seconds: float, epochs: float = 0.0, audio_seconds: float = 0.0) -> None:
        """Count one optimizer step. epochs is the absolute position in epochs of the stage's source, not an increment."""
        self.steps += 1
        self.rows += rows
        self.tokens += tokens
        self.flops += flops
        self.seconds += seconds
        self.audio_seconds += audio_seconds
        self.epochs = epochs
        self.total_steps += 1
        self.total_rows += rows
        self.total_tokens += tokens
        self.total_flops += flops
        self.total_seconds += seconds

    def keep_spent(self, before: Progress) -> None:
        """After going back: what the undone steps spent bought nothing, but no budget in FLOPs or seconds has it any more."""
        useful = self.seconds - self.lost_seconds
        flops, seconds = before.total_flops - self.total_flops, before.total_seconds - self.total_seconds
        self.flops, self.total_flops = self.flops + flops, before.total_flops
        self.seconds, self.total_seconds = self.seconds + seconds, before.total_seconds
        self.lost_seconds = self.seconds - useful

    def next_stage(self) -> None:
        """Enter the following stage with its counters at zero."""
        self.stage, self.entering = self.stage + 1, True
        self.steps = self.rows = self.tokens = 0
        self.flops = self.seconds = self.lost_seconds = self.audio_seconds = self.epochs = 0.0

    def spent(self, quantity: Quantity) -> float:
        """How much of the quantity's unit this stage has spent."""
        return float(getattr(self, quantity.unit))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


@dataclass(frozen=True)
class Moment:
    """What a schedule sees: the progress at the middle of the coming step, the stage's budget, and what one step spends.

    per_step maps units (steps, rows, tokens, flops, seconds, epochs) to the amount of one step, 0 where it is not known yet; it converts
    what lies ahead between units. What is behind is counted in every unit.
    """

    progress: Progress
    budget: Quantity
    per_step: Mapping[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Share of the stage's budget that is spent, 0 to 1."""
        return min(1.0, self.progress.spent(self.budget) / self.budget.value) if self.budget.value else 1.0

    def through(self, span: Quantity) -> float:
        """How many times the span fits into what is spent of its unit: 0.5 is half-way through a warm-up, 1 and above is past it."""
        if not span.value:
            return float("inf")
        unit = self.budget.unit if span.unit == "fraction" else span.unit
        # without the budget where it can be, so that a larger one gives the same, bit for bit
        spent = self.fraction if span.unit == "fraction" else self.progress.spent(span)
        if not spent and self._unknown(unit):
            return FIRST
        if unit != self.budget.unit and not spent:  # the moment does not count it
            return self.fraction / self.share(span)
        return (min(spent, self.budget.value) if span.unit == self.budget.unit else spent) / span.value

    def share_from_start(self, span: Quantity) -> float:
        """A span that begins with the stage as a share of its budget: by what was spent so far, whatever the coming step spends."""
        if span.unit in ("fraction", self.budget.unit) or not self.fraction:
            return self.share(span)
        return self.fraction / self.through(span)

    def share(self, span: Quantity) -> float:
        """The span as a share of the stage's budget, converted by what the coming step spends where the units differ."""
        if span.unit == "fraction":
            return span.value
        if span.unit == self.budget.unit:
            return span.value / self.budget.value
        if self.per_step.get(self.budget.unit) == 0 and span.unit in self.per_step:
            return 1.0  # nothing is known of a step's cost before the first: it stands at the beginning of any span
        if self._unknown(span.unit):
            return 0.0  # nor how soon an end is near
        try:
            return (span.value / self.per_step[span.unit]) / (self.budget.value / self.per_step[self.budget.unit])
        except (KeyError, ZeroDivisionError):
            raise ValueError(
                f"a span of {span} cannot be compared with a budget of {self.budget}: use the same unit, or a percentage"
            ) from None

    def _unknown(self, unit: str) -> bool:
        """Whether nothing is known yet of what a step spends."""
        return unit in MEASURED and self.per_step.get(unit) == 0


def next_moment(progress: Progress, budget: Quantity, per_step: Mapping[str, float]) -> Moment:
    """The middle of the coming step."""
    halves: dict[str, Any] = {unit: getattr(progress, unit) + amount / 2 for unit, amount in per_step.items() if hasattr(progress, unit)}
    return Moment(replace(progress, **halves), budget, per_step)
