"""What would make a stage fit: changes one by one, and the cheapest combination of them that does.

Changes stand in the order of what they cost the user: first those that leave the result as it is, then number formats and optimizers,
last more ranks. The combination is greedy: each change that saves anything is added until the step fits; then those that turn out not
to be needed are dropped again, the dearest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import yaml

from ..core.parts import Spec, load, plain, signature
from ..core.resolve import spec
from ..ledger.forecast import Change, Forecast, changes, sharded
from ..model.recompute import MODES
from .check import unfusable
from .device import slow_precision
from .memory_fit import Setting, may_fuse, modes

if TYPE_CHECKING:
    from .run import Run

# Optimizers with less state, each with a learning rate to begin with where none can be taken over, and what it costs.
SAME_RULE = (("adam8bit", "the same rule, state in 8 bits"), ("adam4bit", "the same rule, state in 4 bits"))
OTHERS = (("adam8bit", 1e-3), ("lion", 1e-4), ("adafactor", 1e-2))
RANKS = (2, 4, 8)
WORTH = 0.99  # a change that leaves more than this share of the peak is not worth its cost


@dataclass(frozen=True)
class Remedy:
    """One change. axis: changes of one kind replace each other. value: what forecast_stage takes. setting: to write on the command line."""

    axis: str
    value: Any
    setting: str
    cost: str


@dataclass(frozen=True)
class Combination:
    """Changes to be made together, cheapest first. peak: bytes of a step with all of them."""

    changes: tuple[Remedy, ...]
    peak: int
    fits: bool

    def as_dict(self) -> dict[str, Any]:
        return {"changes": [{"setting": one.setting, "cost": one.cost} for one in self.changes], "peak": self.peak, "fits": self.fits}


class Remedies:
    """The changes that a stage admits, and full forecasts of the stage with any of them."""

    def __init__(self, run: Run, index: int, now: Setting, available: int):
        self.run, self.index, self.now, self.available = run, index, now, available
        self.all = [*_settings(run, index, now), *_optimizers(run, index)]
        self._known: dict[tuple[Any, ...], Forecast] = {}

    def one_by_one(self) -> list[Change]:
        """What each change alone saves, those that fit first."""
        alternatives = {one.setting: (lambda one=one: self.forecast([one]), one.cost) for one in self.all}
        return changes(replace(self.now.forecast), self.available, alternatives, RANKS if self._shardable else ())

    def together(self) -> Combination:
        """The cheapest combination that fits; where none does, the one that needs least."""
        ranks = [Remedy("ranks", count, f"layout=fsdp on {count} ranks", "communication") for count in RANKS if self._shardable]
        taken: dict[str, Remedy] = {}
        peak = self.now.forecast.peak
        for remedy in [*self.all, *ranks]:
            tried = taken | {remedy.axis: remedy}
            if self._admits(tried.values()) and (less := self.forecast(tried.values()).peak) <= WORTH * peak:
                taken, peak = tried, less
                if peak <= self.available:
                    break
        if peak <= self.available:
            for remedy in sorted(taken.values(), key=[*self.all, *ranks].index, reverse=True):
                fewer = {axis: one for axis, one in taken.items() if axis != remedy.axis}
                if fewer and (less := self.forecast(fewer.values()).peak) <= self.available:
                    taken, peak = fewer, less
        return Combination(tuple(sorted(taken.values(), key=[*self.all, *ranks].index)), peak, peak <= self.available)

    def forecast(self, remedies: Iterable[Remedy]) -> Forecast:
        """The stage with these changes."""
        from .plan import forecast_stage

        changed = {one.axis: one.value for one in remedies}
        ranks, rows = changed.pop("ranks", 1), changed.pop("rows", self.now.micro_rows)
        key = (rows, *sorted((axis, str(plain(value))) for axis, value in changed.items()))
        if key not in self._known:
            given = {"checkpointing": self.now.checkpointing, "fused": self.now.fused_backward} | changed
            self._known[key] = forecast_stage(self.run, self.index, rows, **given)
        return sharded(self._known[key], ranks) if ranks > 1 else self._known[key]

    def _admits(self, remedies: Iterable[Remedy]) -> bool:
        """Whether the changes go together: updates inside the backward pass ask something of the optimizer and the layout."""
        changed = {one.axis: one.value for one in remedies}
        if not changed.get("fused", self.now.fused_backward):
            return True
        stage = self.run.section.stages[self.index]
        return "ranks" not in changed and not list(
            unfusable(self.run.section, replace(stage, optimizer=changed.get("optimizer", stage.optimizer)))
        )

    @property
    def _shardable(self) -> bool:
        return self.run.layout.ranks == 1


def _settings(run: Run, index: int, now: Setting) -> Iterator[Remedy]:
    """Changes of how the step is taken."""
    for rows in dict.fromkeys((max(1, now.micro_rows // 4), 1)):
        if rows < now.micro_rows:
            yield Remedy("rows", rows, f"micro_rows={rows}", "slightly slower matmuls, the same result")
    for mode, cost in (("selective", "some elementwise work twice, the same result"), ("full", "a third more arithmetic, the same result")):
        if mode in modes(run, index, every=True) and MODES.index(mode) > MODES.index(now.checkpointing):
            yield Remedy("checkpointing", mode, f"model.encoder.checkpointing={mode}", cost)
    if not now.fused_backward and may_fuse(run, index):
        yield Remedy("fused", True, f"stages.{index}.fused_backward=true", "no clipping, no skipped step; the same result")
    if run.dtype == torch.float32:
        slow = "; slow here: no instructions for it" if slow_precision(torch.bfloat16, run.device) else ""
        yield Remedy("dtype", torch.bfloat16, "precision=bf16", f"activations in 16 bits{slow}")


def _optimizers(run: Run, index: int) -> Iterator[Remedy]:
    """Other optimizers: where AdamW is at work, also inside another one, its rule with less state; then other rules."""
    whole = run.section.stages[index].optimizer
    for path, inner in whole.walk():
        if inner.slot == "optim" and inner.name == "adamw":
            for name, cost in SAME_RULE:
                smaller = spec("optim", name, **{knob: plain(value) for knob, value in inner.knobs.items() if knob in _knobs(name)})
                place = ".".join(filter(None, (f"stages.{index}.optimizer", path)))
                yield Remedy("optimizer", _put(whole, path, smaller), f"{place}={_said(smaller)}", cost)
    for name, lr in OTHERS:
        if name != whole.name and not (whole.name == "adamw" and name == "adam8bit"):
            other = spec("optim", name, lr=lr)
            yield Remedy("optimizer", other, f"stages.{index}.optimizer={_said(other)}", "another optimizer: tune its lr")


def _knobs(name: str) -> dict[str, tuple[Any, Any]]:
    return signature(load("optim", name)).knobs


def _put(whole: Spec, path: str, inner: Spec) -> Spec:
    """A Spec with another one in the place that a dotted path names."""
    head, _, rest = path.partition(".")
    return inner if not head else Spec(whole.slot, whole.name, whole.knobs | {head: _put(whole.knobs[head], rest, inner)})


def _said(optimizer: Spec) -> str:
    """An optimizer as the command line takes it, without what is a default anyway."""
    known = _knobs(optimizer.name)
    tree = {"name": optimizer.name} | {name: plain(value) for name, value in optimizer.knobs.items() if value != known[name][1]}
    return yaml.safe_dump(tree, default_flow_style=True, sort_keys=False, width=10**6).strip()
