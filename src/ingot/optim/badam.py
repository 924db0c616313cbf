r"""BAdam: block coordinate descent, Adam on one block at a time.   Luo, Yu & Li 2024, arXiv:2404.02827, Algorithm 1.

    the blocks, in an order drawn anew for every pass over them, are each trained for `every` steps with fresh state:

    m_k = b1 m_{k-1} + (1 - b1) g_k      v_k = b2 v_{k-1} + (1 - b2) g_k^2      m_0 = v_0 = 0,   k = 1 .. every
    w_k = w_{k-1} - lr weight_decay w_{k-1} - lr m^_k / (sqrt(v^_k) + eps)      for the weights of the block; all others rest

A block is a layer of the stack; embedding, final norm and head together are one more. While a block is trained no gradient is
computed for the others, and backward ends at it. The state is dropped when the block changes. When the run is resumed the block is
the one it was: it follows from the steps made and the seed.

DEPARTS: the authors' code leaves embedding and head out, which suits fine-tuning, and its first block gets one step less.

Shapes: m, v, g as w.   State: two tensors per weight of the block in training, and a step count; nothing for others.
Cost: no matmul FLOPs; backward computes the gradients of one block's weights, and those of activations down to it.
Gradients alive: one block's. Compiled blocks are compiled once more for each way in which they are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from ..core.parts import NonNegative, Positive, part
from ._blocks import BlockAdamW, shuffled
from ._groups import Beta


@part
class BAdam(BlockAdamW):
    """every: steps before the block changes (K). order: of the blocks in a pass, by depth from the output down for "descending"."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        betas: tuple[Beta, Beta] = (0.9, 0.95),
        eps: NonNegative[float] = 1e-8,
        weight_decay: NonNegative[float] = 0.0,
        every: Positive[int] = 100,
        order: Literal["random", "ascending", "descending"] = "random",
        seed: NonNegative[int] = 0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, every=every, seed=seed)
        self.defaults["order"] = order

    def chosen(self, period: int, blocks: list[str]) -> set[str]:
        number, place = divmod(period, len(blocks))
        order = self.defaults["order"]
        ordered = shuffled(blocks, self.defaults["seed"], number) if order == "random" else blocks if order == "ascending" else blocks[::-1]
        return {ordered[place]}
