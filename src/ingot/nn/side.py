"""What layers leave in ``side`` (train/step.py) where one step's rows go through them in several forwards: put together as if in one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gathered:
    """take: after each forward. leave: when all are done, what every layer would have left of all of them.

    Counts are added up, and so are values of rows, each row's in its place; a measure of a whole forward becomes the mean.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.found: dict[nn.Module, list[dict[str, Tensor]]] = {}

    def take(self, places_R: Tensor | None = None, real_R: Tensor | None = None, rows: int = 0) -> None:
        """Take what layers left. places_R: where the forward's rows stand among so many, where it had not all; real_R: which of them
        count."""
        for module in self.model.modules():
            side = getattr(module, "side", None)
            if isinstance(side, dict):
                self.found.setdefault(module, []).append(
                    {name: _placed(name, value, places_R, real_R, rows) for name, value in side.items()}
                )
                module.side = None  # type: ignore[assignment]

    def leave(self) -> None:
        for module, sides in self.found.items():
            names = dict.fromkeys(name for side in sides for name in side)
            module.side = {name: _together(name, [side[name] for side in sides if name in side]) for name in names}  # type: ignore[assignment]


def _placed(name: str, value: Tensor, places_R: Tensor | None, real_R: Tensor | None, rows: int) -> Tensor:
    if places_R is None or value.dim() != 1 or name.startswith("count/"):
        return value
    value = value if real_R is None else value * real_R
    return value.new_zeros(rows).index_add(0, places_R, value)


def _together(name: str, values: list[Tensor]) -> Tensor:
    total = torch.stack(values).sum(dim=0)
    return total if total.dim() or name.startswith("count/") else total / len(values)
