"""What every layer is called with beside its input: positions, segments, randomness, and the cache of generation.

B rows   T positions   H heads of keys   d features of a head   S positions in the cache
"""

from __future__ import annotations

from collections.abc import Callable
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
        self._fixed: dict[str, tuple[Tensor, Tensor]] = {}

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

    def keep(self, name: str, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values that do not grow, such as those of a decoder's memory: made once per layer."""
        if name not in self._fixed:
            self._fixed[name] = make()
        return self._fixed[name]

    def advance(self, positions: int) -> None:
        """Count the positions that every layer has stored."""
        self.length += positions


@dataclass
class Context:
    """One forward's surroundings, the same for all layers.

    positions_BT: position within the segment.  segments_BT: document number from 1, 0 is padding; None where every row is one
    document.  causal: whether a position sees only those before it.  rows_B, key: what row-wise randomness is drawn from.
    shared: what layers compute once per forward and share, such as the angles of rotary positions.
    ids_BT: the token ids that were embedded, where the input is ids.
    memory_BSD, memory_segments_BS: what a decoder attends to.  hidden: positions to hide and the vector to put there.
    even: every row is this many documents of equal length, one after another, without padding; None where that is not known.
    dtype: what activations are held in, for embeddings that read values and not ids; None leaves it to them.

    The embedding is called before the positions are known: what it leaves None is filled in by ``settle``.
    """

    positions_BT: Tensor | None = None
    segments_BT: Tensor | None = None
    causal: bool = True
    rows_B: Tensor | None = None
    key: Tensor | None = None
    cache: Cache | None = None
    shared: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    ids_BT: Tensor | None = None
    memory_BSD: Tensor | None = None
    memory_segments_BS: Tensor | None = None
    hidden: tuple[Tensor, Tensor] | None = None
    even: int | None = None
    dtype: torch.dtype | None = None

    def place(self, batch: dict[str, Tensor], like_BT: Tensor) -> None:
        """Positions and segments of tokens as the batch has them, those already set excepted; for embeddings of tokens."""
        if self.positions_BT is None:
            self.positions_BT = batch.get("positions")
            if self.segments_BT is None:
                self.segments_BT = batch.get("segments")
        self.settle(like_BT)

    def settle(self, like_BT: Tensor) -> None:
        """Positions 0 .. T-1 (on from the cache's end) where none are set yet."""
        if self.positions_BT is None:
            start = self.cache.length if self.cache is not None else 0
            self.positions_BT = torch.arange(start, start + like_BT.shape[1], device=like_BT.device).expand(like_BT.shape[0], -1)

    def hide(self, x_BTD: Tensor) -> Tensor:
        """x with the hidden positions' vectors replaced; an embedding calls it on its values, before it adds positions."""
        if self.hidden is None:
            return x_BTD
        masked_BT, vector_D = self.hidden
        return torch.where(masked_BT[..., None], vector_D.to(x_BTD.dtype), x_BTD)

    def keep(self, kept_BK: Tensor, leading: int = 0) -> Tensor:
        """Leave only some positions; returns the indices to gather with, the leading positions included, (B, leading + K)."""
        assert self.positions_BT is not None
        self.even = None
        first = torch.arange(leading, device=kept_BK.device).expand(kept_BK.shape[0], -1)
        index = torch.cat([first, kept_BK + leading], dim=1)
        self.positions_BT = self.positions_BT.gather(1, index)
        self.segments_BT = None if self.segments_BT is None else self.segments_BT.gather(1, index)
        self.ids_BT = None if self.ids_BT is None or leading else self.ids_BT.gather(1, index)
        return index
