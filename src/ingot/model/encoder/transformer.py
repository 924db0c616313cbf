"""A stack of equal blocks, each a mixer and a feed-forward.   Vaswani et al. 2017, arXiv:1706.03762.

x_BTD -> x_BTD   Cost: depth times that of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ...core.parts import Fraction, Positive, Slot, part
from ...nn.context import Context
from ...nn.dropout import LayerDrop
from ...nn.objectives import looks_back, objectives
from ..recompute import Mode, keeping, refusals


@part
class Transformer(nn.Module):
    """depth: blocks. block: where norms stand. linear: the kind of every projection. dropout: rate on what each layer adds.
    layer_drop: how likely a row passes by a block while training (nn/dropout.py).

    final_norm: a norm on the result; when not given, there is one unless the blocks' output is normalized already.
    checkpointing: which activations are kept for backward, and which are computed again (model/recompute.py); ``auto`` lets the run
    choose what fits its memory.
    """

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
        layer_drop: Fraction = 0.0,
        final_norm: bool | None = None,
        checkpointing: Mode = "none",
    ):
        super().__init__()
        self.width, self.depth, self.sequence = width, depth, sequence
        self.checkpointing: str = checkpointing
        self.automatic = checkpointing == "auto"
        self.blocks = nn.ModuleList()
        for layer in range(depth):
            wiring = {
                "width": width,
                "linear": linear,
                "layer": layer,
                "depth": depth,
                "sequence": sequence,
                "norm": norm,
                "dropout": dropout,
            }
            self.blocks.append(block.build(**wiring, mixer=mixer.build(**wiring), feedforward=feedforward.build(**wiring)))
        self.drops = nn.ModuleList([LayerDrop(layer_drop) for _ in range(depth if layer_drop else 0)])
        wanted = not getattr(block.target, "normalizes_output", False) if final_norm is None else final_norm
        self.norm = norm.build(width=width) if wanted else None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        if knobs["final_norm"] and getattr(knobs["block"].target, "normalizes_output", False):
            yield f"block {knobs['block'].name!r} already normalizes its output; final_norm would do it twice"
        mixer = knobs["mixer"]
        if getattr(mixer.target, "attends", None) == "memory":
            yield f"mixer {mixer.name!r} looks at another stack's output; it is the cross of a decoder, not the mixer of an encoder"
        for objective in objectives(context) if getattr(mixer.target, "looks_ahead", False) else []:
            if looks_back(objective):
                yield f"mixer {mixer.name!r} sees every position of a document; the causal objective {objective.name!r} wants one that does not look ahead"
        yield from refusals(knobs["checkpointing"], context)

    def compile_blocks(self, **options: Any) -> None:
        """Compile each block by itself; activation checkpointing stays outside of it."""
        for block in self.blocks:
            block.compile(**options)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        return self.run(x_BTD, context, 0, self.depth)

    def run(self, x_BTD: Tensor, context: Context, start: int, end: int) -> Tensor:
        """The blocks from start up to end, and the final norm where end is the last."""
        x_BTD = self.through(x_BTD, context, start, end)
        return x_BTD if self.norm is None or end < self.depth else self.norm(x_BTD)

    def through(self, x_BTD: Tensor, context: Context, start: int, end: int) -> Tensor:
        """The blocks from start up to end alone."""
        for block in self.blocks:
            # Angles and the like are computed here and not in the first block, so that all blocks compile to one graph.
            if hasattr(block.mixer, "share"):
                block.mixer.share(context, x_BTD.dtype)
        for layer, block in enumerate(self.blocks[start:end], start):
            y_BTD = keeping(block, x_BTD, context, self.checkpointing if self.training else "none")
            x_BTD = self.drops[layer](x_BTD, y_BTD, context) if len(self.drops) else y_BTD
        return x_BTD
