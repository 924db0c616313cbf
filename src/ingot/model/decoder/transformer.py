r"""A stack of equal blocks, each a mixer, a mixer over the encoder's output, and a feed-forward.   Vaswani et al. 2017,
arXiv:1706.03762, section 3.1; T5, BART and Whisper.

x_BUD -> x_BUE, E = inner or D      With ``cross: null`` the stack does not look at the encoder, as MAE's light decoder
(He et al. 2021, arXiv:2111.06377, section 3), whose input already holds it.

Cost: depth times that of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ...core.parts import Fraction, Positive, Slot, part
from ...nn.context import Context
from ..recompute import Mode, keeping, refusals


@part
class Transformer(nn.Module):
    """depth: blocks. mixer, cross, feedforward, norm, block, linear, dropout, final_norm, checkpointing: as in the encoder.

    inner: width of the stack where it is not the model's; a projection leads into it, and what comes out has this width.
    """

    def __init__(
        self,
        width: int,
        sequence: int,
        memory_width: int | None = None,
        *,
        depth: Positive[int],
        mixer: Slot["nn.mixer"],
        cross: Slot["nn.mixer"] | None,
        feedforward: Slot["nn.feedforward"] = "gelu",
        norm: Slot["nn.norm"] = "rms",
        block: Slot["nn.block"] = "pre",
        linear: Slot["nn.linear"] = "dense",
        dropout: Fraction = 0.0,
        final_norm: bool | None = None,
        inner: Positive[int] | None = None,
        checkpointing: Mode = "none",
    ):
        super().__init__()
        self.width, self.depth, self.sequence = inner or width, depth, sequence
        self.checkpointing: str = checkpointing
        self.automatic = checkpointing == "auto"
        self.enter = linear.build(inputs=width, outputs=inner, bias=True, axes=("width", "width"), role="matrix") if inner else None
        self.blocks = nn.ModuleList()
        for layer in range(depth):
            wiring = {
                "width": self.width,
                "linear": linear,
                "layer": layer,
                "depth": depth,
                "sequence": sequence,
                "norm": norm,
                "dropout": dropout,
                "memory_width": memory_width or width,
            }
            layers = {"mixer": mixer.build(**wiring), "feedforward": feedforward.build(**wiring)}
            self.blocks.append(block.build(**wiring, **layers, **({"cross": cross.build(**wiring)} if cross else {})))
        wanted = not getattr(block.target, "normalizes_output", False) if final_norm is None else final_norm
        self.norm = norm.build(width=self.width) if wanted else None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        cross, block = knobs["cross"], knobs["block"]
        if cross is not None and getattr(cross.target, "attends", None) != "memory":
            yield f"cross wants a mixer over the encoder's output, such as cross_attention, or null; {cross.name!r} mixes the row itself"
        if getattr(knobs["mixer"].target, "attends", None) == "memory":
            yield f"{knobs['mixer'].name!r} looks at the encoder's output alone; set it as cross, and a mixer of the row itself beside it"
        if knobs["final_norm"] and getattr(block.target, "normalizes_output", False):
            yield f"block {block.name!r} already normalizes its output; final_norm would do it twice"
        yield from refusals(knobs["checkpointing"], context)

    def compile_blocks(self, **options: Any) -> None:
        """Compile each block by itself; activation checkpointing stays outside of it."""
        for block in self.blocks:
            block.compile(**options)

    def forward(self, x_BUD: Tensor, context: Context) -> Tensor:
        return self.through(x_BUD if self.enter is None else self.enter(x_BUD), context)

    def through(self, x_BUD: Tensor, context: Context) -> Tensor:
        """The blocks and the final norm, for input that has the width of the stack already."""
        for block in self.blocks:
            # Angles and the like are computed here and not in the first block, so that all blocks compile to one graph.
            if hasattr(block.mixer, "share"):
                block.mixer.share(context, x_BUD.dtype)
        for block in self.blocks:
            x_BUD = keeping(block, x_BUD, context, self.checkpointing if self.training else "none")
        return x_BUD if self.norm is None else self.norm(x_BUD)
