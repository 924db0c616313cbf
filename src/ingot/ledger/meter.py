"""The step meter: where the seconds and the FLOPs of every optimizer step go.

    meter = Meter(device)
    for ...:
        with meter.step(precise=logging_this_step):           # encloses everything that a step costs
            with meter.phase("data"):
                window = next(loader)
            with meter.counting(model, key):                  # key: shapes of the window, stage, hook phase; metered once, then cached
                with meter.phase("optimizer"):
                    optimizer.step(closure)                   # closure: with meter.phase("forward_backward"): ...
        spent = meter.finish()                                # Spent(step_seconds, phases, flops, flops_by_component, recomputed)

Phases are exclusive: entering one pauses the one around it, so the seconds of all phases, with ``other``, add up to the step.
On CUDA the host runs ahead of the device; a *precise* step waits for the device at every phase boundary, other steps only share
the wait of whoever asks for a value next. Make the steps precise that are logged.

FLOPs are those of this rank; ``layout.total`` sums them over ranks. Phases in ``WHOLE`` are components of their own, even where
they run the model (a selection pass is a cost of hooks). Outside the model's children the phase is the component.
Cost: two clock readings per phase; a metered (first) step runs eagerly and several times slower than others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .flops import OTHER, FlopCount, eager

WHOLE = frozenset({"hooks"})


@dataclass
class Spent:
    """What one step cost. flops leaves out `recomputed`. metered: the step was run eagerly to count it, so its time is not typical."""

    step_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    flops_by_component: dict[str, float] = field(default_factory=dict)
    recomputed: float = 0.0
    metered: bool = False

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Counted:
    """FLOPs of one counted block."""

    by_component: Mapping[str, int]
    recomputed: int

    @property
    def flops(self) -> int:
        return sum(self.by_component.values())


class Meter:
    """See the module's docstring. whole: phases that are a component of their own even inside the model."""

    def __init__(self, device: torch.device | str = "cpu", whole: frozenset[str] = WHOLE):
        self.device = torch.device(device)
        self.totals: dict[str, float] = {}
        self._whole = whole
        self._cache: dict[str, Counted] = {}
        self._stack: list[str] = []
        self._since = time.perf_counter()
        self._precise = False
        self._counting = False
        self._step: Spent = Spent()

    @contextmanager
    def step(self, precise: bool = False) -> Iterator[None]:
        """One optimizer step. An exception leaves the meter ready for the next step; what was spent stays counted."""
        if self._stack:
            raise RuntimeError("a step cannot begin inside another step or phase")
        self._precise = precise and self.device.type == "cuda"
        start = self._read()
        self._stack.append(OTHER)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()
            self._step.step_seconds += self._since - start
            self._precise = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of the step, or, outside of one, work between steps (evaluation, checkpoint); adds to `totals` too."""
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def _read(self) -> float:
        if self._precise:
            torch.cuda.synchronize(self.device)
        self._since = time.perf_counter()
        return self._since

    def _charge(self) -> None:
        """Give the time since the last boundary to the innermost phase."""
        before = self._since
        seconds = self._read() - before
        if self._stack:
            name = self._stack[-1]
            self.totals[name] = self.totals.get(name, 0.0) + seconds
            if self._stack[0] == OTHER:
                self._step.phases[name] = self._step.phases.get(name, 0.0) + seconds

    @contextmanager
    def counting(self, model: nn.Module | None, key: Hashable, *, cache: bool = True) -> Iterator[None]:
        """Count the block's FLOPs the first time `key` is seen, and take the same figure every later time.

        The key must name all that changes the cost: the shapes of the window, the stage, the phase of methods with a periodic
        cost. cache=False counts every time. A block inside a counted block is counted with it.
        """
        if self._counting:
            yield
            return
        known = self._cache.get(str(key)) if cache else None
        self._counting = True
        try:
            if known is None:
                with eager(), FlopCount(model, self._phase, self._whole) as count:
                    yield
                # Reached only without an exception: half a step must not be remembered as a whole one.
                known = Counted(dict(count.by_component), count.recomputed)
                self._step.metered = True
                if cache:
                    self._cache[str(key)] = known
            else:
                yield
        finally:
            self._counting = False
        self._add(known)

    def count(self, model: nn.Module | None, run: Callable[[], Any]) -> Counted:
        """FLOPs of `run()`, not added to the step: for evaluators and for planning."""
        with eager(), FlopCount(model, self._phase, self._whole) as count:
            run()
        return Counted(dict(count.by_component), count.recomputed)

    def known(self, key: Hashable) -> bool:
        """Whether a block with this key need not be run eagerly any more."""
        return str(key) in self._cache

    def forget(self, key: Hashable) -> None:
        """Let the next block with this key be counted anew."""
        self._cache.pop(str(key), None)

    def _phase(self) -> str:
        return self._stack[-1] if self._stack else OTHER

    def _add(self, counted: Counted) -> None:
        step = self._step
        step.flops += counted.flops
        step.recomputed += counted.recomputed
        for name, flops in counted.by_component.items():
            step.flops_by_component[name] = step.flops_by_component.get(name, 0.0) + flops

    def state_dict(self) -> dict[str, Any]:
        """What was metered so far, as plain data: a resumed run takes the same figures without metering again."""
        return {
            "counted": {
                key: {"by_component": dict(value.by_component), "recomputed": value.recomputed} for key, value in self._cache.items()
            },
            "totals": dict(self.totals),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; an empty one changes nothing."""
        self._cache |= {key: Counted(value["by_component"], value["recomputed"]) for key, value in state.get("counted", {}).items()}
        self.totals |= state.get("totals", {})

    def finish(self) -> Spent:
        """What was spent since the last call: call it once after each step."""
        spent, self._step = self._step, Spent()
        return spent
