"""What objectives share that match rows of two towers: how a tower's output becomes one vector, and what evaluators ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.axes import label
from ..core.parts import Spec
from ..nn.pooling import Pooling, pooled
from ._projection import one_each, unit

MAIN = "main"


class Scalar(nn.Module):
    """One learned number, ``weight`` (1,), that starts from a value."""

    def __init__(self, start: float):
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.full((1,), start))
        label(self, "weight", "one", role="scale")

    def initial(self, name: str, generator: torch.Generator) -> Tensor:
        """What training starts from."""
        return torch.full((1,), self.start)


class Side(nn.Module):
    """A tower's output as one vector of length 1: pooled, projected. outputs: features, or None for none of its own."""

    def __init__(self, width: int, outputs: int | None, linear: Spec, pooling: Pooling, causal: bool, bias: bool):
        super().__init__()
        self.pooling, self.causal = pooling, causal
        self.project = (
            linear.build(inputs=width, outputs=outputs, bias=bias, axes=("projection", "width"), role="matrix") if outputs else None
        )

    def forward(self, model: Any, batch: dict[str, Tensor], tower: str | None) -> Tensor:
        h_BTD, context = model.encoded(batch, causal=self.causal, tower=tower)
        h_BD = self.pool(h_BTD, context, int(getattr(model.tower(tower).embedding, "leading", 0)))
        return unit(h_BD if self.project is None else self.project(h_BD))

    def pool(self, h_BTD: Tensor, context: Any, leading: int) -> Tensor:
        """(B, D)."""
        return pooled(h_BTD, context, self.pooling, leading)


class PairObjective(nn.Module):
    """Matches the model's own side with that of a further tower. Derived: ``couple``."""

    couples_batch = True

    def __init__(self, tower: str, main: Side, other: Side):
        super().__init__()
        self.tower, self.causal = tower, main.causal
        self.main, self.other = main, other

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds units: 1 for every pair."""
        return one_each(batch)

    def forward(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.couple(self.represent(model, batch), batch)

    def represent(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Vectors of length 1 of both sides, (B, d) each."""
        return {MAIN: self.vectors(model, batch, MAIN), "other": self.vectors(model, batch, "other")}

    def vectors(self, model: Any, batch: dict[str, Tensor], side: str) -> Tensor:
        """Of one side alone, for batches that hold no other."""
        found: Tensor = self.main(model, batch, None) if side == MAIN else self.other(model, batch, self.tower)
        return found

    def couple(self, representations: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def features(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(B, D), the model's own side before the projection."""
        h_BTD, context = model.encoded(batch, causal=self.main.causal)
        return self.main.pool(h_BTD, context, int(getattr(model.embedding, "leading", 0)))


def missing_tower(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
    """Why the model has nothing to match with."""
    graph = getattr(context.get("run"), "model", None)
    if graph is not None and knobs["tower"] not in graph.towers:
        yield f"there is no tower {knobs['tower']!r} to match with: describe one under model.towers"


def width_of(tower: str, widths: Mapping[str, int] | None, width: int) -> int:
    """D of a further tower."""
    return (widths or {}).get(tower, width)
