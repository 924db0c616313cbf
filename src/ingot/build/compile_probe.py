"""Whether compilation pays on this machine: measured on the run's own shapes, kept only when faster and equal in loss."""

from __future__ import annotations

import copy
import math
import shutil
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

import torch

from .annotate import annotate
from .rows import steps_in

if TYPE_CHECKING:
    from ..train.state import State
    from .run import Run

# Seconds of forward and backward passes in a run below which compiling, 14 s and more, is not even tried: a processor spends most of them
# in the same products either way, and what has been seen to be won there, some 5 %, is as much as that costs.
SHORT = {"cpu": 300.0}
SHORT_ELSEWHERE = 120.0
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2}


def choose_compile(run: Run, state: State, wanted: bool | Literal["auto"]) -> tuple[bool, str]:
    """Returns the decision and the reason. The model and the run's randomness are left untouched."""
    if wanted is False:
        return False, "switched off in the recipe"
    missing = _missing(run)
    if missing:
        return False, missing
    if wanted is True:
        return True, "switched on in the recipe"
    if run.section.memory is not None:
        return False, "auto does not probe where memory is capped, for it takes a second model; set compile: true to compile there"
    if run.layout.ranks > 1:
        return False, "auto does not probe under several ranks; set compile: true to compile there"
    try:
        return _probe(run, state)
    except Exception as error:
        return False, f"compilation failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _missing(run: Run) -> str:
    if not hasattr(run.model, "compile_blocks"):
        return "the model has no blocks to compile"
    if run.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "no C++ compiler was found"
    if run.device.type == "mps" or sys.platform == "win32":
        return f"not supported on {run.device.type}"
    return ""


def _micro_steps(run: Run, index: int, seconds: float) -> float | None:
    """Micro-batches of a stage, each of which takes so many seconds without compilation; None where the budget does not say."""
    if run.section.stages[index].budget.unit == "flops":
        return None
    rows = run.batch_rows(index)
    per_step = rows / run.program.choose_micro_rows(index, rows)
    return steps_in(run, index, flops=1.0, seconds=seconds * per_step) * per_step


def _probe(run: Run, state: State) -> tuple[bool, str]:
    index = state.progress.stage
    micro_rows = run.program.choose_micro_rows(index, run.batch_rows(index))
    if said := annotate(run, dict(state.extra), index, entering=state.progress.entering):  # rows are read here before the stage begins
        run.messages.append(said)
    windows = run.windows(run.data_of(index).train, start=0, rows=micro_rows, micro_rows=micro_rows)
    try:
        batch = run.model.objective.prepare(next(iter(windows))[0])
    finally:
        windows.close()
    for repeats in (1, 2):  # the first pass is the slowest: where a run is short even by that one, no other is made
        eager = _time(run.model, batch, repeats)
        micro_steps = _micro_steps(run, index, eager[0])
        if micro_steps is not None and micro_steps * eager[0] < SHORT.get(run.device.type, SHORT_ELSEWHERE):
            return False, f"the run is too short to win back the compilation ({micro_steps:.0f} micro-batches of {eager[0]:.2f} s)"
    twin = copy.deepcopy(run.model)
    twin.compile_blocks()
    began = time.perf_counter()
    _time(twin, batch, 1)
    cost = time.perf_counter() - began
    pairs = [(_time(run.model, batch, 1)[0], _time(twin, batch, 1)[0]) for _ in range(3)]
    ratio = statistics.median(first / second for first, second in pairs)
    difference = abs(_loss(run.model, batch) - _loss(twin, batch)) / abs(eager[1])
    if difference > TOLERANCE[run.dtype]:
        return False, f"the compiled loss differs by {difference:.1e} relative"
    saved = math.inf if micro_steps is None else micro_steps * statistics.median(first - second for first, second in pairs)
    if ratio < 1.02 or saved < cost:
        wins = "too little" if micro_steps is None else f"{max(saved, 0.0):.0f} s"
        return False, f"measured {ratio:.2f}x, which wins {wins} for {cost:.0f} s spent compiling"
    return True, f"measured {ratio:.2f}x faster after {cost:.0f} s of compiling, loss equal to {difference:.0e}"


def _time(model: Any, batch: dict[str, torch.Tensor], repeats: int) -> tuple[float, float]:
    """Median seconds of a forward and backward pass, and the loss."""
    times, loss = [], 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        total = sum(value.sum() for value in model(batch).values())
        total.backward()
        if batch["rows"].device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        loss = float(total.detach())
    model.zero_grad(set_to_none=True)
    return statistics.median(times), loss


def _loss(model: Any, batch: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        return float(sum(value.sum() for value in model(batch).values()))
