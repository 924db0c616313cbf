r"""Multi-token prediction: several heads on one trunk, each for a token further ahead.   Gloeckle et al. 2024, arXiv:2404.19737, section 2.

    z = trunk(tokens <= t)        p(token_{t+i}) = softmax(E norm(f_i(z)))   i = 1 .. n        loss = sum_i -log p(token_{t+i})

The trunk is all blocks of the encoder but the last, which is f_1: the model by itself is an ordinary causal one. The other f_i are stacks
of their own, one block each by custom, on the trunk; the matrix E is shared. To keep the number of parameters, take n - 1 blocks from the
encoder, as the paper does. ``ingot generate --temperature 0`` writes several tokens at a time, exactly the
greedy text (``model/generate.py: speculate``).

State: none.   Cost: n - 1 further blocks and 2 D V (n - 1) operations per position.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.parts import NonNegative, Positive, Slot, part
from ..nn.context import Cache, Context
from ..ops.cross_entropy import linear_cross_entropy
from .causal_lm import CausalLM


@part
class MultiToken(CausalLM):
    """heads: n, the next token's included. layer: each further head's stack. weight: of every further head's loss.

    tied, bias, softcap, z_loss: as in ``causal_lm``.
    """

    writer = "several_at_a_time"
    splits_encoder = True  # its losses read the encoder before the last block

    def __init__(
        self,
        width: int,
        vocabulary: int,
        sequence: int = 0,
        *,
        heads: Positive[int] = 4,
        layer: Slot["model.encoder"],
        weight: Positive[float] = 1.0,
        tied: bool = True,
        bias: bool = False,
        softcap: Positive[float] | None = None,
        z_loss: NonNegative[float] = 0.0,
    ):
        super().__init__(width, vocabulary, tied=tied, bias=bias, softcap=softcap, z_loss=z_loss)
        self.weight_ahead = weight
        self.further = nn.ModuleList(layer.build(width=width, sequence=sequence) for _ in range(heads - 1))

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from CausalLM.check(knobs, context)
        encoder = getattr(getattr(context.get("run"), "model", None), "encoder", None)
        if knobs["heads"] < 2:
            yield "one head is causal_lm; set heads to 2 or more"
        if 2 <= context.get("sequence", 0) <= knobs["heads"]:
            yield f"rows of {context['sequence']} tokens have none {knobs['heads']} ahead of any; set heads below data.sequence"
        if encoder is None:
            return
        if not hasattr(encoder.target, "run"):
            yield f"the heads need an encoder that can run a part of its blocks; {encoder.name!r} cannot"
        elif encoder.knobs["depth"] < 2:
            yield "the encoder's last block is the first head, so that the trunk of an encoder of 1 block is empty; make it deeper"

    @staticmethod
    def splits(knobs: dict[str, Any], depth: int) -> Iterable[int]:
        """After which blocks of so many the encoder is run in parts."""
        return [depth - 1]

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As ``causal_lm``; further targets_i (B, T), the i-th token ahead in the same document, and units/ahead_i."""
        batch = super().prepare(batch)
        tokens_BT, segments_BT = batch["tokens"], batch.get("segments")
        for ahead in range(2, len(self.further) + 2):
            targets_BT = torch.full_like(tokens_BT, -100)
            targets_BT[:, :-ahead] = tokens_BT[:, ahead:]
            if segments_BT is not None:
                same = (segments_BT[:, ahead:] == segments_BT[:, :-ahead]) & (segments_BT[:, ahead:] > 0)
                targets_BT[:, :-ahead].masked_fill_(~same, -100)
            batch |= {f"targets_{ahead}": targets_BT, f"units/ahead_{ahead}": (targets_BT >= 0).sum(dim=1)}
        return batch

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        trunk_BTD, h_BTD, context = self.trunk(model, batch)
        losses = self.losses(model, h_BTD, batch["targets"])
        for ahead, h_ahead in enumerate(self.ahead(trunk_BTD, context), start=2):
            found = linear_cross_entropy(
                self.transformed(h_ahead), self.weight(model), batch[f"targets_{ahead}"], bias_V=self.bias, softcap=self.softcap
            )[0]
            losses[f"ahead_{ahead}"] = self.weight_ahead * found
        return losses

    def trunk(self, model: Any, batch: dict[str, Tensor], cache: Cache | None = None) -> tuple[Tensor, Tensor, Context]:
        """The trunk's output, the next-token head's, and the context. A cache is not advanced."""
        x_BTD, context = model.embed(batch, True, cache)
        depth = model.encoder.depth
        trunk_BTD = model.encoder.run(x_BTD, context, 0, depth - 1)
        return trunk_BTD, model.encoder.run(trunk_BTD, context, depth - 1, depth), context

    def ahead(self, trunk_BTD: Tensor, context: Context, caches: Iterable[Cache | None] | None = None) -> list[Tensor]:
        """Outputs of the further heads, (B, T, D) each; caches: one for each."""
        held = [None] * len(self.further) if caches is None else list(caches)
        return [layer(trunk_BTD, replace(context, shared={}, cache=cache)) for layer, cache in zip(self.further, held, strict=True)]
