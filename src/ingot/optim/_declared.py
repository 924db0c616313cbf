"""Optimizers that declare their state in one table, from which its layout, its bytes and the state itself follow; and sharded sums.

State is cut along its first dimension where the weight is cut along its own, so it shrinks with the number of ranks and can be read
by any number of them. Rank-local pieces of a sum over the whole weight meet in ``total`` and ``scattered``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.distributed import tensor as distributed
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from ..core.axes import Axes
from ..core.errors import RunError
from ..core.parts import Spec
from ._groups import Group, Layout, StatefulOptimizer, count, local


class Held(NamedTuple):
    """One tensor of a weight's state: how it is laid out, the shape and dtype of the whole. host: kept in the CPU's memory."""

    layout: Layout
    shape: tuple[int, ...]
    dtype: torch.dtype
    host: bool = False


STEP = Held("scalar", (), torch.float32, host=True)


class DeclaredOptimizer(StatefulOptimizer):
    """A StatefulOptimizer whose subclasses say what they keep of a weight in ``declare``. Tensors of state keep their own dtype."""

    def declare(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Held]:
        """What is kept of a weight, by key."""
        raise NotImplementedError

    def state_layout(self, axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Layout]:
        return {key: held.layout for key, held in self.declare(axes, shape, torch.float32).items()}

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype, axes: Axes | None = None) -> int:
        return sum(count(held.shape) * held.dtype.itemsize for held in self.declare(axes, shape, dtype).values())

    def new_state(self, weight: Tensor, group: Group) -> dict[str, Tensor]:
        declared = self.declare(axes_in(group, weight), tuple(weight.shape), weight.dtype)
        return {key: _zeros(held, weight) for key, held in declared.items()}

    def state_dtypes(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.dtype]:
        return {key: held.dtype for key, held in self.declare(axes, shape, dtype).items() if held.dtype != dtype}


def axes_in(group: Group, weight: Tensor) -> Axes | None:
    """The declared axes of one of the group's weights."""
    return next((axes for other, axes in zip(group["params"], group["axes"]) if other is weight), None)


def number(held: Tensor, pretended: float) -> float:
    """The value of a scalar; `pretended` where the step is a forecast, whose tensors hold nothing."""
    return pretended if isinstance(held, FakeTensor) else float(held)


def fixed(knobs: dict[str, Any], context: dict[str, Any], *names: str) -> Iterator[str]:
    """Sentences for knobs that the state's shape or calendar hangs on: they can neither be scheduled nor change while it is kept.

    knobs: of a stage's optimizer, or of one inside it, which is compared with the one at its place in the stage before.
    """
    stages = context["run"].stages
    for index, stage in enumerate(stages):
        optimizers = by_place(stage.optimizer)
        place = next((place for place, spec in optimizers.items() if spec.knobs is knobs), None)
        if place is None:
            continue
        yield from (f"{name!r} says what the optimizer keeps, so it cannot be scheduled" for name in names if name in stage.schedule)
        before = by_place(stages[index - 1].optimizer) if index and stage.objective is None else {}
        if [(at, spec.name) for at, spec in before.items()] != [(at, spec.name) for at, spec in optimizers.items()]:
            continue
        for name in names:
            if (old := before[place].knobs[name]) != knobs[name]:
                yield f"{name!r} says what the optimizer keeps, and its state is carried on from the stage before, which has {old}"


def by_place(optimizer: Spec) -> dict[str, Spec]:
    """An optimizer and those inside it, by the knobs that lead there."""
    return {place: spec for place, spec in optimizer.walk() if spec.slot == "optim"}


def _zeros(held: Held, weight: Tensor) -> Tensor:
    if held.shape == tuple(weight.shape) and held.shape:
        return torch.zeros_like(weight, dtype=held.dtype)
    if not isinstance(weight, DTensor) or not held.shape:
        return torch.zeros(held.shape, dtype=held.dtype, device="cpu" if held.host and weight.device.type != "meta" else weight.device)
    if any(isinstance(placement, Shard) and placement.dim for placement in weight.placements):
        raise RunError(f"this optimizer keeps its state by rows; a weight cut along another dimension ({weight.placements}) has none")
    return distributed.zeros(*held.shape, dtype=held.dtype, device_mesh=weight.device_mesh, placements=weight.placements)


# -- sums and pieces over the ranks that share a weight ------------------------------------------------------------------------------


def _parts(weight: DTensor) -> list[Any]:
    """Placements of a value of which each rank that holds other rows has a term."""
    return [Partial() if isinstance(placement, Shard) else Replicate() for placement in weight.placements]


def total(term: Tensor, weight: Tensor) -> Tensor:
    """The sum of every rank's term, on every rank. Of a weight that is not cut: the term."""
    if not isinstance(weight, DTensor):
        return term
    return DTensor.from_local(term, weight.device_mesh, _parts(weight), run_check=False).full_tensor()


def scattered(term: Tensor, weight: Tensor) -> Tensor:
    """The sum of every rank's term, of which each keeps its piece along the first dimension."""
    if not isinstance(weight, DTensor):
        return term
    terms = DTensor.from_local(term, weight.device_mesh, _parts(weight), run_check=False)
    return terms.redistribute(placements=weight.placements).to_local()


def gathered(piece: Tensor, rows: int, weight: Tensor) -> Tensor:
    """The whole of which every rank has a piece along the first dimension, of so many rows."""
    if not isinstance(weight, DTensor):
        return piece
    shape = torch.Size((rows, *piece.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(piece, weight.device_mesh, weight.placements, run_check=False, shape=shape, stride=stride).full_tensor()


def piece(whole: Tensor, weight: Tensor) -> Tensor:
    """This rank's piece, along the first dimension, of what every rank has whole."""
    if not isinstance(weight, DTensor):
        return whole
    copies = DTensor.from_local(whole, weight.device_mesh, [Replicate()] * weight.device_mesh.ndim, run_check=False)
    return copies.redistribute(placements=weight.placements).to_local()


def first_ranks(whole: Tensor, weight: Tensor) -> Tensor:
    """This rank's piece of the first rank's whole: for results that ranks may compute differently, such as singular vectors' signs."""
    if not isinstance(weight, DTensor):
        return whole
    return local(distributed.distribute_tensor(whole, weight.device_mesh, weight.placements))
