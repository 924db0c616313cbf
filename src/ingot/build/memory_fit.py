"""Fitting a step into the memory there is, by forecast, without trying: micro-batch, activation checkpointing, fused updates.

Nothing here changes what is computed: the global batch stays, gradients agree to rounding. What may be chosen is what the recipe
leaves open (``micro_rows: auto``, ``checkpointing: auto``, ``stages.*.fused_backward: auto``). Of the settings that are forecast to
fit, the one whose step is forecast to be the fastest is taken; where none is, the one that needs least, and the forecast says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import Problem, UserError
from ..ledger.forecast import Forecast, step_seconds
from ..ledger.machine import matmul_rate
from ..ledger.memory import available as free_bytes
from ..model.recompute import MODES
from .check import unfusable

if TYPE_CHECKING:
    from .run import Run

# Bytes a second of a pass over memory, and over the way to the host's memory: allowances, not measured. A micro-batch reads all
# weights twice and adds up all gradients.
BANDWIDTH = {"cpu": 8e9, "cuda": 1.5e12}
TO_HOST = 1.2e10
SLOW_BELOW = 64  # positions in a micro-batch at which matmuls run at half their speed
CERTAIN = 0.9  # of a stated cap: what the forecast may promise; processes take up to 10 % more, by how their allocator lays things out
ENOUGH = 16384  # positions in a micro-batch above which a CPU gains nothing


@dataclass(frozen=True)
class Setting:
    """A way to take a stage's step. seconds: of a step, forecast. fits: its peak is within what is available."""

    micro_rows: int
    checkpointing: str
    fused_backward: bool
    forecast: Forecast
    seconds: float
    fits: bool


def available_bytes(run: Run) -> int:
    """Memory a rank may use: the recipe's cap, or what is free now; ranks on one machine share its memory."""
    if run.device.type == "cuda":
        free = torch.cuda.mem_get_info(run.device)[0]
    else:
        free = free_bytes() // run.layout.ranks
    cap = run.section.memory
    return min(int(free * 0.9), promised(cap.value)) if cap is not None else int(free * 0.8)


def promised(cap: float) -> int:
    """What a forecast may take of so many bytes that a rank must not go beyond."""
    return int(cap * CERTAIN)


def stacks(model: Any) -> list[Any]:
    """Encoders and decoder that can compute activations again."""
    return [stack for stack in model.stacks() if hasattr(stack, "checkpointing")]


def recipe_mode(run: Run, index: int) -> str:
    """What the recipe says about the encoder's activations; ``none`` where it cannot say it."""
    from .grow import graph_of

    return str(graph_of(run.section, index).encoder.knobs.get("checkpointing", "none"))


def modes(run: Run, index: int, every: bool = False) -> list[str]:
    """The ways to treat activations that may be chosen. every: as if the recipe left it open."""
    from .grow import graph_of

    said = recipe_mode(run, index)
    if "checkpointing" not in graph_of(run.section, index).encoder.knobs or (said != "auto" and not every):
        return [said]
    left_out = {"offload"} if run.device.type == "cpu" else set()
    return [mode for mode in MODES if mode not in left_out | ({"selective"} if run.section.compile is True else set())]


def may_fuse(run: Run, index: int) -> bool:
    """Whether weights could be updated inside the backward pass."""
    return run.layout.ranks == 1 and not list(unfusable(run.section, run.section.stages[index]))


def most_rows(run: Run, index: int, rows: int) -> int:
    """The largest micro-batch worth having: hooks may need several parts, and a CPU gains nothing beyond some size."""
    from .rows import positions_per_row

    parts = max((getattr(spec.target, "parts", 1) for spec in run.section.stages[index].hooks), default=1)
    most = max(1, -(-rows // max(1, -(-parts // run.layout.ranks))))
    if -(-rows // most) * run.layout.ranks < parts:
        most = max(1, most - 1)
    return most if run.device.type == "cuda" else min(most, max(1, ENOUGH // positions_per_row(run, index)))


def seconds_of(run: Run, index: int, found: Forecast, rows: int, mode: str, rate: float) -> float:
    """A step's seconds: arithmetic, recomputed too, slower in small pieces; passes over the weights; the way to the host and back."""
    from .rows import positions_per_row

    micros = -(-rows // found.micro_rows)
    positions = found.micro_rows * positions_per_row(run, index)
    arithmetic = step_seconds(found.flops + found.recomputed, rate, device=run.device.type, dtype=run.dtype) * (1 + SLOW_BELOW / positions)
    passes = micros * 4 * found.by_kind["weights"] / BANDWIDTH.get(run.device.type, 8e9)
    return arithmetic + passes + (micros * 2 * found.by_kind["activations"] / TO_HOST if mode == "offload" else 0.0)


def settle(run: Run, index: int, rows: int, available: int, rate: float | None = None) -> Setting:
    """The fastest setting of a stage that is forecast to fit; the smallest where none is. rows: of a rank's share of the batch."""
    rate = rate or matmul_rate(run.device, run.dtype)
    known: dict[tuple[str, bool, int], Setting] = {}

    def ahead(mode: str, fused: bool, micro: int) -> Setting:
        from .plan import forecast_stage

        if (mode, fused, micro) not in known:
            found = forecast_stage(run, index, micro, checkpointing=mode, fused=fused)
            known[mode, fused, micro] = Setting(
                micro, mode, fused, found, seconds_of(run, index, found, rows, mode, rate), found.peak <= available
            )
        return known[mode, fused, micro]

    fixed = run.section.micro_rows
    most = most_rows(run, index, rows)
    # Micro-batches are as even as it goes, so only these sizes are worth a look.
    sizes = (
        [min(rows, fixed)]
        if isinstance(fixed, int)
        else sorted({size for pieces in range(1, rows + 1) if (size := -(-rows // pieces)) <= most})
    )
    best: Setting | None = None
    for mode in modes(run, index):
        for fused in _fusing(run, index, sizes[-1] == rows):
            whole = ahead(mode, fused, sizes[-1])  # no smaller micro-batch of this kind is faster
            if best is not None and best.seconds <= whole.seconds:
                continue
            micro = (
                sizes[-1]
                if fused and not whole.fits
                else largest(sizes, lambda size, mode=mode, fused=fused: ahead(mode, fused, size).fits)
            )  # type: ignore[misc]
            setting = ahead(mode, fused, micro)
            if setting.fits and (best is None or setting.seconds < best.seconds):
                best = setting
    return best or min(known.values(), key=lambda one: one.forecast.peak)


def _fusing(run: Run, index: int, whole: bool) -> list[bool]:
    """Whether updates are made inside the backward pass. Left open, it is of use where there is one micro-batch only."""
    said = run.section.stages[index].fused_backward
    if said == "auto":
        return [False, True] if whole and may_fuse(run, index) else [False]
    return [bool(said)]


def largest(sizes: list[int], fits: Callable[[int], bool]) -> int:
    """The last of rising sizes that fits, where every smaller one does too; the first where none fits."""
    if fits(sizes[-1]):
        return sizes[-1]
    low, high = 0, len(sizes) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low]


def settle_naively(run: Run, index: int, rows: int, rate: float) -> Setting:
    """The step in as few pieces as are worth having, nothing computed again: what the chosen setting is compared with."""
    from .plan import forecast_stage

    micro = most_rows(run, index, rows)
    found = forecast_stage(
        run,
        index,
        micro,
        checkpointing="none" if recipe_mode(run, index) == "auto" else None,
        fused=run.section.stages[index].fused_backward is True,
    )
    return Setting(micro, "none", False, found, seconds_of(run, index, found, rows, "none", rate), True)


def fitting(run: Run, index: int, rows: int) -> dict[str, Any]:
    """What a stage's open settings become, the same on every rank: micro_rows, checkpointing, fused_backward."""
    section = run.section
    mode, fused = recipe_mode(run, index), section.stages[index].fused_backward
    if isinstance(section.micro_rows, int) and mode != "auto" and fused != "auto":
        return {"micro_rows": min(rows, section.micro_rows), "checkpointing": mode, "fused_backward": bool(fused)}
    available = min(run.layout.gather(available_bytes(run)))
    setting = settle(run, index, rows, available)
    if section.memory is not None and not setting.fits:
        least = f"the least is {setting.forecast.peak / 1e6:,.0f} MB, with micro_rows {setting.micro_rows} and checkpointing {setting.checkpointing}"
        raise UserError(
            [
                Problem(
                    "memory",
                    f"stage {index} is not forecast to fit {available / 1e6:,.0f} MB: {least}; ingot plan shows what would take less",
                )
            ]
        )
    found = {"micro_rows": setting.micro_rows, "checkpointing": setting.checkpointing, "fused_backward": setting.fused_backward}
    if section.memory is not None or "auto" in (mode, fused):
        run.messages.append(_said(run, index, rows, setting))
    chosen: dict[str, Any] = run.layout.broadcast_object(found)
    return chosen


def _said(run: Run, index: int, rows: int, setting: Setting) -> str:
    """What was chosen and what it costs, in a sentence for the ledger."""
    naive = settle_naively(run, index, rows, matmul_rate(run.device, run.dtype))
    updates = ", updates inside backward" if setting.fused_backward else ""
    cost = f"{setting.seconds / naive.seconds - 1:+.0%} of the time of a step that needs {naive.forecast.peak / 1e6:,.0f} MB"
    fits = "" if setting.fits else "; that is more than is free now, and nothing smaller was found"
    return f"stage {index}: micro-batch of {setting.micro_rows} rows, checkpointing {setting.checkpointing}{updates}: {setting.forecast.peak / 1e6:,.0f} MB forecast, {cost}{fits}"
