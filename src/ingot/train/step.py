"""One optimizer step over one window: loss sums, one division, gradients, the guard's verdict, the update.

The window is drawn, prepared and selected once, outside the closure; an optimizer may call the closure again (SAM), and what a
second call would log is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..ledger.memory import gradient_bytes

if TYPE_CHECKING:
    from torch import nn

    from ..core.seams import Layout
    from .state import State

Micro = dict[str, Tensor]


class SkipStep(Exception):
    """Raised inside the closure when the update must not be applied."""


@dataclass
class Outcome:
    """What a step found, equal on every rank: loss per scored unit by name, their sum, the gradient norm, the verdict."""

    loss: float = math.nan
    losses: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = math.nan
    tokens: int = 0
    rows: list[tuple[int, int, float]] = field(default_factory=list)  # this rank's (row, source, loss per unit)
    side: dict[str, float] = field(default_factory=dict)
    hooks: dict[str, float] = field(default_factory=dict)
    gradient_bytes: int = 0
    verdict: Any = None
    stop: bool = False


def loss_units(window: Sequence[Micro], names: Sequence[str], layout: Layout) -> dict[str, Tensor]:
    """Scored units of each loss over the whole window and all ranks, at least 1, as float64 scalars."""
    local = torch.stack([torch.stack([micro.get(f"units/{name}", micro["units"]).sum() for micro in window]).sum() for name in names])
    return dict(zip(names, layout.total(local.double()).clamp(min=1), strict=True))


def collect_side(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What layers left in ``self.side`` during this forward, by module path."""
    return {path: module.side for path, module in model.named_modules() if isinstance(getattr(module, "side", None), dict)}


def clear_side(model: nn.Module) -> None:
    """Forget what the previous forward left."""
    for module in model.modules():
        if getattr(module, "side", None) is not None:
            setattr(module, "side", None)  # noqa: B010


def forward_backward(
    model: nn.Module, window: Sequence[Micro], layout: Layout, side_weights: Mapping[str, float]
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
    """Accumulate the window's gradient: the sum of every loss over rows, divided once by its units over window and ranks.

    Returns this rank's share of each loss (already divided), the side values averaged over micro-batches, and the loss per row.
    """
    shares: dict[str, Tensor] = {}
    side_means: dict[str, Tensor] = {}
    per_row: list[Tensor] = []
    units: dict[str, Tensor] = {}
    for index, micro in enumerate(window):
        clear_side(model)
        with layout.syncing(index == len(window) - 1):
            losses = model(micro)
            if not units:
                units = loss_units(window, list(losses), layout)
            weights = micro.get("weights")
            row_loss = torch.stack([(loss if weights is None else loss * weights) / units[name].to(loss.dtype) for name, loss in losses.items()])
            total = row_loss.sum()
            for side in collect_side(model).values():
                for name, value in side.items():
                    if name in side_weights:
                        total = total + side_weights[name] * value / (len(window) * layout.ranks)
                    if value.dim() == 0:
                        side_means[name] = side_means.get(name, torch.zeros_like(value)) + value.detach() / len(window)
            total.backward()  # type: ignore[no-untyped-call]
        for name, share in zip(losses, row_loss.detach().sum(dim=1).double(), strict=True):
            shares[name] = shares.get(name, torch.zeros_like(share)) + share
        per_row.append(torch.stack([loss.detach().float() for loss in losses.values()]).sum(dim=0) / micro["units"].clamp(min=1))
    clear_side(model)
    layout.reduce()
    return shares, side_means, per_row


def step(
    state: State, window: Sequence[Micro], layout: Layout, *, side_weights: Mapping[str, float], hooks: Mapping[str, Any],
    judge: Callable[[Outcome], bool], stop: Callable[[], bool], phase: Callable[[str], Any],
) -> Outcome:  # fmt: skip
    """Run one optimizer step. judge decides from the outcome whether the update is applied; stop is asked once and shared by all ranks."""
    outcome = Outcome()
    calls = 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        state.optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad(), phase("forward_backward"):
            shares, side, per_row = forward_backward(state.model, window, layout, side_weights)
        if calls == 1:
            with phase("hooks"):
                _describe(outcome, shares, side, per_row, window, layout, stop())
                outcome.gradient_norm = float(layout.clip_norm(state.model.parameters()))
                state.extra["gradient_norm"] = outcome.gradient_norm
                applied = judge(outcome)
                if not applied:
                    raise SkipStep
                for name, hook in hooks.items():
                    if hasattr(hook, "grads"):
                        outcome.hooks |= {f"{name}.{key}": float(value) for key, value in (hook.grads(state) or {}).items()}
        return outcome.loss

    try:
        with phase("optimizer"):
            state.optimizer.step(closure)
    except SkipStep:
        pass
    outcome.gradient_bytes = gradient_bytes(state.model)
    state.optimizer.zero_grad(set_to_none=True)
    return outcome


def _describe(
    outcome: Outcome, shares: dict[str, Tensor], side: dict[str, Tensor], per_row: list[Tensor], window: Sequence[Micro], layout: Layout, stop: bool
) -> None:
    names, sides = list(shares), sorted(side)
    tokens = sum(int((micro["segments"] > 0).sum()) if "segments" in micro else int((micro["rows"] >= 0).sum()) for micro in window)
    local = torch.tensor([*(float(shares[name]) for name in names), *(float(side[name]) / layout.ranks for name in sides), tokens, float(stop)], dtype=torch.float64)
    values = layout.total(local.to(next(iter(shares.values())).device)).tolist()
    outcome.losses = dict(zip(names, values[: len(names)], strict=True))
    outcome.side = dict(zip(sides, values[len(names) : len(names) + len(sides)], strict=True))
    outcome.tokens, outcome.stop = round(values[-2]), values[-1] > 0
    outcome.loss = sum(outcome.losses.values())
    rows = torch.cat([micro["rows"] for micro in window]).tolist()
    sources = torch.cat([micro.get("source", torch.zeros_like(micro["rows"])) for micro in window]).tolist()
    outcome.rows = [item for item in zip(rows, sources, torch.cat(per_row).tolist(), strict=True) if item[0] >= 0]
