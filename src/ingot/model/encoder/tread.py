r"""Token routing: while training, a random part of the tokens passes by a span of blocks.   Krause et al. 2025 (TREAD), arXiv:2501.04765.

    x_s      what enters block `start`
    K        T - round(share T) positions of the row, drawn anew for every row and epoch, in their order
    y_K      blocks start .. end - 1 on x_s[K] alone, with the positions' own numbers and documents
    x_e      x_s, with y_K put back at K        enters block `end`; the other tokens come back as they left

In evaluation every token goes through every block. Tokens keep their order, so a causal model stays causal. In the span attention
sees only what is there: a window counts tokens that are there, and a mixer that counts places (a convolution) counts those.

DEPARTS: the paper trains diffusion transformers, with a route from block 2 to the fourth from the end; here the objective is any.

Shapes: x (B, T, D) -> the same.   Parameters: those of ``transformer``, by the same names.   State: none.
Cost: of the span, a share of 1 - share of what grows with T, and its square of what grows with T^2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...core.parts import Fraction, NonNegative, Positive, Slot, part
from ...nn.context import Context
from ...nn.objectives import objectives
from ...nn.position.relative import by_place
from ...nn.subset import draw
from ..recompute import Mode
from .transformer import Transformer


@part
class Tread(Transformer):
    """share: of a row's tokens that pass by blocks start to end - 1. Everything else: as in ``transformer``."""

    salt: Tensor

    def __init__(
        self,
        width: int,
        sequence: int,
        *,
        depth: Positive[int],
        mixer: Slot["nn.mixer"],
        feedforward: Slot["nn.feedforward"] = "gelu",
        norm: Slot["nn.norm"] = "rms",
        block: Slot["nn.block"] = "pre",
        linear: Slot["nn.linear"] = "dense",
        dropout: Fraction = 0.0,
        final_norm: bool | None = None,
        checkpointing: Mode = "none",
        start: NonNegative[int] = 1,
        end: Positive[int] | None = None,
        share: Fraction = 0.5,
    ):
        super().__init__(
            width,
            sequence,
            depth=depth,
            mixer=mixer,
            feedforward=feedforward,
            norm=norm,
            block=block,
            linear=linear,
            dropout=dropout,
            final_norm=final_norm,
            checkpointing=checkpointing,
        )
        self.start, self.end, self.share = start, depth - 1 if end is None else end, share
        self.register_buffer("salt", torch.zeros((), dtype=torch.int64), persistent=False)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from Transformer.check(knobs, context)
        depth, start = knobs["depth"], knobs["start"]
        end = depth - 1 if knobs["end"] is None else knobs["end"]
        if not start < end <= depth:
            yield f"the route from block {start} to block {end} passes by nothing, or leads out of the {depth} blocks; set start and end"
        if knobs["share"] == 1:
            yield "share 1 would leave the span without a token; set it below 1"
        if by_place(knobs["mixer"]):
            yield "relative positions count places, and of the route only a part of the tokens is there; use rotary, or the encoder transformer"
        for objective in objectives(context):
            for split in getattr(objective.target, "splits", lambda *given: ())(objective.knobs, depth):
                if start < split < end:
                    yield (
                        f"objective {objective.name!r} splits the blocks at {split}, inside of the route from {start} to {end}; move one of them"
                    )

    def through(self, x_BTD: Tensor, context: Context, start: int, end: int) -> Tensor:
        """The blocks from start up to end; the routed span among them takes a part of the tokens while training."""
        length = x_BTD.shape[1]
        kept = length - round(self.share * length)
        if not self.training or kept in (0, length) or not (start <= self.start and self.end <= end):
            return super().through(x_BTD, context, start, end)
        if context.rows_B is None or context.key is None:
            raise ValueError("routing draws by row: the batch needs 'rows' and 'key' while training")
        x_BTD = super().through(x_BTD, context, start, self.start)
        order_BK = draw(length, kept, context.rows_B, context.key, self.salt)
        index_BKD = order_BK[..., None].expand(-1, -1, x_BTD.shape[2])
        few_BKD = super().through(x_BTD.gather(1, index_BKD), self._few(context, order_BK), self.start, self.end)
        return super().through(x_BTD.scatter(1, index_BKD, few_BKD), context, self.end, end)

    @staticmethod
    def _few(context: Context, order_BK: Tensor) -> Context:
        assert context.positions_BT is not None
        ids, segments = context.ids_BT, context.segments_BT
        return replace(
            context,
            shared={},
            even=None,
            positions_BT=context.positions_BT.gather(1, order_BK),
            ids_BT=None if ids is None else ids.gather(1, order_BK),
            segments_BT=None if segments is None else segments.gather(1, order_BK),
        )
