"""What every layer is called with beside its input: positions, segments, randomness, and the cache of generation.

B rows   T positions   H heads of keys   d features of a head   S positions in the cache
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


class Cache:
    """Keys and values of the positions seen so far, per layer; for generation only.

    capacity: the most positions it will hold. Every layer extends it once per forward; then ``advance`` moves its end.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.length = 0
        self._held: dict[str, tuple[Tensor, Tensor]] = {}

    def extend(self, name: str, k_BHTd: Tensor, v_BHTd: Tensor) -> tuple[Tensor, Tensor]:
        """Store this forward's keys and values of a layer; returns all of them, (B, H, S, d)."""
        end = self.length + k_BHTd.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, {end} are needed")
        if name not in self._held:
            shape = (*k_BHTd.shape[:2], self.capacity, k_BHTd.shape[3])
            self._held[name] = (k_BHTd.new_empty(shape), v_BHTd.new_empty(shape))
        keys, values = self._held[name]
        keys[:, :, self.length : end] = k_BHTd
        values[:, :, self.length : end] = v_BHTd
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, positions: int) -> None:
        """Count the positions that every layer has stored."""
        self.length += positions


@dataclass
class Context:
    """One forward's surroundings, the same for all layers.

    positions_BT: position within the segment.  segments_BT: document number from 1, 0 is padding; None where every row is one
    document.  causal: whether a position sees only those before it.  rows_B, key: what row-wise randomness is drawn from.
    shared: what layers compute once per forward and share, such as the angles of rotary positions.
    """

    positions_BT: Tensor
    segments_BT: Tensor | None = None
    causal: bool = True
    rows_B: Tensor | None = None
    key: Tensor | None = None
    cache: Cache | None = None
    shared: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)


def context_of(batch: dict[str, Tensor], x_BTD: Tensor, *, causal: bool, cache: Cache | None = None) -> Context:
    """The context of a batch (see core/seams.py for its keys) whose embedded values are x."""
    start = cache.length if cache is not None else 0
    positions = batch.get("positions")
    if positions is None:
        positions = torch.arange(start, start + x_BTD.shape[1], device=x_BTD.device).expand(x_BTD.shape[0], -1)
    return Context(positions, batch.get("segments"), causal, batch.get("rows"), batch.get("key"), cache)
