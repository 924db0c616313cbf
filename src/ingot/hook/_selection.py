"""What hooks that train on a part of what they read share: scoring rows without gradients, choosing over all ranks, splitting anew.

The choice is over every row of the step, whatever the micro-batches and ranks: scores are gathered, all ranks sort them alike, and
the kept rows are dealt out again in the order of the window, contiguously, in micro-batches of the same size as before. What fills up
the last ones is a copy of a kept row, so that an objective meets nothing strange in it, with row -1, no segment, no target and no unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.evaluating import evaluating
from ._weights import put_back_shards

if TYPE_CHECKING:
    from ..core.seams import Layout

Micro = dict[str, Tensor]
FILLING = {"rows": -1, "targets": -100, "segments": 0, "spent": 0}


@contextmanager
def judging(model: nn.Module) -> Iterator[None]:
    """No gradients, no dropout, every token through every layer; the mode each module was in comes back, and so do shards."""
    with evaluating(model):
        try:
            yield
        finally:
            put_back_shards(model)


def row_losses(model: nn.Module, window: Iterable[Micro]) -> Tensor:
    """Loss per scored unit of every row of the window, all its losses together, (rows,) float32 on the CPU."""
    with judging(model):
        return torch.cat([sum(loss.float() for loss in model(micro).values()) / micro["units"].clamp(min=1) for micro in window]).cpu()  # type: ignore[misc]


def select(window: Sequence[Micro], scores: Tensor, keep: float, layout: Layout | None) -> tuple[list[Micro], dict[str, float]]:
    """The share `keep` of the window's rows over all ranks with the largest scores; also their smallest score and how many there are.

    scores: of this rank's rows, in order. Equal ones go by row number; what is not finite comes last.
    """
    gather: Callable[[Any], list[Any]] = layout.gather if layout is not None else lambda value: [value]
    rank = layout.rank if layout is not None else 0
    numbers = torch.cat([micro["rows"] for micro in window]).tolist()
    told = gather([(score if math.isfinite(score) else -math.inf, number) for score, number in zip(scores.tolist(), numbers, strict=True)])
    every = [
        (-score, number, owner, place) for owner, pairs in enumerate(told) for place, (score, number) in enumerate(pairs) if number >= 0
    ]
    count = max(1, round(keep * len(every)))
    kept = sorted(every)[:count]
    mine = sorted(place for _, _, owner, place in kept if owner == rank)
    return deal(window, mine, layout), {"threshold": -kept[-1][0], "kept": float(count)}


def deal(window: Sequence[Micro], mine: Sequence[int], layout: Layout | None) -> list[Micro]:
    """The rows at these places of this rank's window, and those that other ranks give, evenly over ranks again."""
    size = window[0]["rows"].shape[0]
    rows = {
        name: torch.cat([micro[name] for micro in window])[torch.tensor(mine, dtype=torch.int64, device=value.device)]
        for name, value in window[0].items()
        if value.dim()
    }
    ranks, rank = (layout.ranks, layout.rank) if layout is not None else (1, 0)
    if layout is not None and ranks > 1:
        parts = layout.gather({name: value.cpu() for name, value in rows.items()})
        rows = {name: torch.cat([part[name] for part in parts]).to(value.device) for name, value in rows.items()}
    each, more = divmod(len(rows["rows"]), ranks)
    start = rank * each + min(rank, more)
    here, micros = slice(start, start + each + (rank < more)), -(-(each + (more > 0)) // size)
    filled = {name: _filled(name, value, here, micros * size) for name, value in rows.items()}
    plain = {name: value for name, value in window[0].items() if not value.dim()}
    return [{name: value[at * size : (at + 1) * size] for name, value in filled.items()} | plain for at in range(micros)]


def _filled(name: str, value: Tensor, here: slice, rows: int) -> Tensor:
    """Some of the rows, then as many copies of the first of all as are wanted, under a key that one of several objectives may own."""
    mine, own = value[here], name.split("/")
    filling = value[:1].expand(rows - len(mine), *value.shape[1:])
    known = 0 if "units" in own else FILLING.get(own[-1])
    return torch.cat([mine, filling if known is None else torch.full_like(filling, known)])


def refusals(context: dict[str, Any]) -> Iterator[str]:
    """Why rows of this run cannot be chosen one by one."""
    run = context.get("run")
    objectives = [] if run is None else [run.model.objective, *(stage.objective for stage in run.stages if stage.objective is not None)]
    for objective in objectives:
        if getattr(objective.target, "couples_batch", False):
            yield f"objective {objective.name!r} couples the rows of a batch: a row has no loss of its own to be chosen by"
