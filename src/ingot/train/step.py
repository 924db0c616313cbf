"""One optimizer step over one window: loss sums, one division, gradients, the guard's verdict, the update.

The window is drawn, prepared and selected once, outside the closure; an optimizer may call the closure again (SAM), and what a
second call would log is dropped. Hooks see the gradients of the last call, which the update is made of.

What a layer leaves in ``self.side`` during a forward, by name:

    name         (B,)    one value per row; a weighted one enters the loss as its mean over the real rows of the whole step and ranks,
                         so accumulation and ranks do not change it.   ()   a measure for the ledger, which cannot be weighted
    count/name   any     summed over the window and all ranks and given to the layer's ``counted(totals) -> {log name: number}``,
                         once per applied step: what a router's bias or a usage statistic is kept from
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import RunError
from ..core.measured import units_of
from ..core.sums import wide
from ..ledger.memory import gradient_bytes
from .coupled import coupling
from .fused_backward import FusedBackward

if TYPE_CHECKING:
    from torch import nn

    from ..core.seams import Layout
    from .state import State

Micro = dict[str, Tensor]


class SkipStep(Exception):
    """Raised inside the closure when the update must not be applied."""


class HalfMade(Exception):
    """Memory ran out when the update had begun: weights and state are neither those before the step nor those after it."""


@dataclass
class Outcome:
    """What a step found, equal on every rank: loss per scored unit by name, their sum, the gradient norm, the verdict."""

    loss: float = math.nan
    losses: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = math.nan
    tokens: int = 0
    rows: list[tuple[int, int, float]] = field(default_factory=list)  # this rank's (row, source, loss per unit)
    side: dict[str, float] = field(default_factory=dict)
    counts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    hooks: dict[str, float] = field(default_factory=dict)
    gradient_bytes: int = 0
    read: int = 0  # rows
    verdict: Any = None
    stop: bool = False


def loss_units(window: Sequence[Micro], names: Sequence[str], layout: Layout) -> dict[str, Tensor]:
    """Scored units of each loss over the whole window and all ranks, at least 1, as float64 scalars."""
    local = torch.stack([torch.stack([units_of(micro, name).sum() for micro in window]).sum() for name in names])
    return dict(zip(names, layout.total(wide(local)).clamp(min=1), strict=True))


def collect_side(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What layers left in ``self.side`` during this forward, by module path."""
    return {path: module.side for path, module in model.named_modules() if isinstance(getattr(module, "side", None), dict)}


def clear_side(model: nn.Module) -> None:
    """Forget what the previous forward left."""
    for module in model.modules():
        if getattr(module, "side", None) is not None:
            setattr(module, "side", None)  # noqa: B010


@dataclass
class Pass:
    """What one forward-backward over a window found on this rank.

    shares: each loss, already divided by its units. side: values of layers, averaged. counts: summed, by layer. rows: loss per unit of
    every row.
    """

    shares: dict[str, Tensor] = field(default_factory=dict)
    side: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    rows: list[Tensor] = field(default_factory=list)


def forward_backward(
    model: nn.Module,
    window: Sequence[Micro],
    layout: Layout,
    side_weights: Mapping[str, float],
    last: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Pass:
    """Accumulate the window's gradient: the sum of every loss over rows, divided once by its units over window and ranks.

    last: what surrounds the last backward.
    """
    found = Pass()
    units: dict[str, Tensor] = {}
    real_rows = layout.total(wide(torch.stack([(micro["rows"] >= 0).sum() for micro in window]).sum())).clamp(min=1)
    coupled = coupling(model, window, layout)
    for index, micro in enumerate(window):
        clear_side(model)
        with layout.syncing(index == len(window) - 1):
            losses, pull = (model(micro), 0.0) if coupled is None else coupled.again(index)
            if not units:
                units = loss_units(window, list(losses), layout)
            weights = micro.get("weights")
            row_loss = torch.stack(
                [(loss if weights is None else loss * weights) / units[name].to(loss.dtype) for name, loss in losses.items()]
            ).masked_fill(micro["rows"] < 0, 0)  # whatever an objective makes of rows that only fill up
            total = (
                row_loss.sum() + pull + _side_loss(found, collect_side(model), micro, side_weights, real_rows, len(window) * layout.ranks)
            )
            with last() if index == len(window) - 1 else nullcontext():
                total.backward()  # type: ignore[no-untyped-call]
        for name, share in zip(losses, row_loss.detach().sum(dim=1), strict=True):
            found.shares[name] = found.shares.get(name, torch.zeros_like(share)) + share
        found.rows.append(torch.stack([loss.detach().float() for loss in losses.values()]).sum(dim=0) / micro["units"].clamp(min=1))
        del losses, row_loss, total  # else what is left of this graph lies scattered where the next forward wants room: a fifth more memory
    clear_side(model)
    layout.reduce()
    return found


def _side_loss(
    found: Pass, sides: dict[str, dict[str, Tensor]], micro: Micro, weights: Mapping[str, float], real_rows: Tensor, forwards: int
) -> Tensor | float:
    """Note what the layers left, and return the part of the loss that is made of it."""
    total: Tensor | float = 0.0
    for path, side in sides.items():
        for name, value in side.items():
            if name.startswith("count/"):
                counts = found.counts.setdefault(path, {})
                counts[name[6:]] = counts.get(name[6:], 0) + value.detach()
                continue
            if value.dim() == 1:
                share = value[micro["rows"] >= 0].sum() / real_rows.to(value.dtype)
                if name in weights:
                    total = total + weights[name] * share
            elif name in weights:
                raise RunError(
                    f"{path} leaves {name!r} as one number for a whole micro-batch, so it cannot be weighted: accumulation would change it"
                )
            else:
                share = value / forwards
            share = share.detach()
            found.side[name] = found.side.get(name, torch.zeros_like(share)) + share
    return total


def step(
    state: State,
    window: Sequence[Micro],
    layout: Layout,
    *,
    side_weights: Mapping[str, float],
    hooks: Mapping[str, Any],
    judge: Callable[[Outcome], bool],
    stop: Callable[[], bool],
    phase: Callable[[str], Any],
    fused_backward: bool = False,
) -> Outcome:
    """Run one optimizer step. judge decides from the outcome whether the update is applied; stop is asked once and shared by all ranks.

    Raises torch.cuda.OutOfMemoryError where nothing has been changed, HalfMade where something may have been.
    fused_backward: the updates are made inside the last backward, so judge can only take note.
    """
    outcome = Outcome()
    calls, updating = 0, fused_backward

    def closure() -> float:
        nonlocal calls, updating
        calls += 1
        state.optimizer.zero_grad(set_to_none=True)
        fused = FusedBackward(state.optimizer, phase) if fused_backward else None
        with torch.enable_grad(), phase("forward_backward"):
            found = forward_backward(state.model, window, layout, side_weights, fused.updating if fused else nullcontext)
        with phase("hooks"):
            norm = float(layout.clip_norm(state.model.parameters()))
            if fused:
                norm, outcome.gradient_bytes = math.hypot(norm, fused.norm()), fused.bytes
            if calls == 1:
                _describe(outcome, found, window, layout, stop())
            if calls == 1 or not math.isfinite(norm):
                outcome.gradient_norm = norm
                if not judge(outcome):
                    raise SkipStep
            if calls == getattr(state.optimizer, "closure_calls", 1):
                state.extra["gradient_norm"] = norm
                outcome.hooks |= _hook_gradients(state, hooks)
        updating = True
        return outcome.loss

    try:
        with phase("optimizer"):
            state.optimizer.step(closure)
        with phase("hooks"):
            _hand_out(outcome, state.model)
    except SkipStep:
        pass
    except torch.cuda.OutOfMemoryError as error:
        if updating:
            raise HalfMade from error
        raise
    outcome.gradient_bytes = max(outcome.gradient_bytes, gradient_bytes(state.model))
    state.optimizer.zero_grad(set_to_none=True)
    return outcome


def _hook_gradients(state: State, hooks: Mapping[str, Any]) -> dict[str, float]:
    """The hooks' moment on final gradients; what they log, by hook."""
    found = {name: hook.grads(state) or {} for name, hook in hooks.items() if hasattr(hook, "grads")}
    return {f"{name}.{key}": float(value) for name, log in found.items() for key, value in log.items()}


def _describe(outcome: Outcome, found: Pass, window: Sequence[Micro], layout: Layout, stop: bool) -> None:
    shares, side = found.shares, found.side
    names, sides = list(shares), sorted(side)
    tokens = sum(_positions(micro) for micro in window)
    local = torch.tensor(
        [*(float(shares[name]) for name in names), *(float(side[name]) for name in sides), tokens, float(stop)], dtype=torch.float64
    )
    values = layout.total(local).tolist()
    outcome.losses = dict(zip(names, values[: len(names)], strict=True))
    outcome.side = dict(zip(sides, values[len(names) : len(names) + len(sides)], strict=True))
    outcome.tokens, outcome.stop = round(values[-2]), values[-1] > 0
    outcome.loss = sum(outcome.losses.values())
    outcome.counts = {
        path: {name: layout.total(value) for name, value in sorted(counts.items())} for path, counts in sorted(found.counts.items())
    }
    rows = torch.cat([micro["rows"] for micro in window]).tolist()
    sources = torch.cat([micro.get("source", torch.zeros_like(micro["rows"])) for micro in window]).tolist()
    outcome.rows = [item for item in zip(rows, sources, torch.cat(found.rows).tolist(), strict=True) if item[0] >= 0]


def _positions(micro: Micro) -> int:
    """Positions that are not padding."""
    if "spent" in micro:
        return int(micro["spent"].sum())
    return int((micro["segments"] > 0).sum()) if "segments" in micro else int((micro["rows"] >= 0).sum())


def size_of(window: Sequence[Micro], objective: Any = None) -> str:
    """Tells apart windows whose rows are cut to different lengths, or parted otherwise into what is seen and what is hidden, and those that
    the objective says to cost differently."""
    sizes = [value[:1].numel() for value in window[0].values() if value.dim()]
    cost = getattr(objective, "cost", None)
    return f"/{sum(sizes)}.{sum(size * size for size in sizes)}" + (f"/{cost(window)}" if cost is not None else "")


def _hand_out(outcome: Outcome, model: nn.Module) -> None:
    """Give every layer the totals of what it counted; what it says about them joins the side values of the ledger."""
    for path, totals in outcome.counts.items():
        layer = model.get_submodule(path)
        counted: Callable[[dict[str, Tensor]], dict[str, Any] | None] | None = getattr(layer, "counted", None)
        if counted is not None:
            outcome.side |= {f"{path}.{name}": float(value) for name, value in (counted(totals) or {}).items()}
