r"""Masked language modeling: predict hidden tokens from both sides.   Devlin et al. 2018, arXiv:1810.04805, section 3.1.

Each token is chosen with probability ``rate``; of the chosen, a share becomes the mask token, a share a random token, the rest stay.

    loss = -sum over chosen t of log p(token_t | corrupted row)

The head may transform first: norm(gelu(W h + b)).

With ``late``, mask tokens stay out of the first blocks and join the rest, as embedded, after them: Liao et al. 2022,
arXiv:2211.04898, section 3. What they would have cost there is saved, which pays most at high rates.

Cost: 2 D V operations per chosen position.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.parts import Fraction, NonNegative, Positive, Slot, Spec, part
from ..nn.position.relative import by_place
from ..ops.random import hash_uniform, salt_of
from ._head import VocabularyObjective


class Transform(nn.Module):
    """norm(gelu(W h + b)), width to the embedding's inner width, which is the model's where it has none of its own."""

    def __init__(self, width: int, outputs: int, linear: Spec, norm: Spec):
        super().__init__()
        axis = "width" if outputs == width else "inner"
        self.linear = linear.build(inputs=width, outputs=outputs, bias=True, axes=(axis, "width"), role="matrix")
        self.norm = norm.build(width=outputs, axis=axis)

    def forward(self, h: Tensor) -> Tensor:
        transformed: Tensor = self.norm(F.gelu(self.linear(h)))
        return transformed


@part
class MaskedLM(VocabularyObjective):
    """rate: share of tokens chosen. masked, random: shares of the chosen that become the mask token or a random one.

    mask: id of the mask token; the tokenizer's own when not given. transform: norm of the head's transform, none for no transform.
    late: how many blocks mask tokens skip. tied, bias, softcap, z_loss: as in ``causal_lm``. Special and padding tokens are never
    chosen.
    """

    causal = False

    def __init__(
        self,
        width: int,
        vocabulary: int,
        linear: Spec,
        specials: dict[str, int],
        embedding: Any = None,
        *,
        rate: Fraction = 0.15,
        masked: Fraction = 0.8,
        random: Fraction = 0.1,
        mask: NonNegative[int] | None = None,
        transform: Slot["nn.norm"] | None = None,
        late: NonNegative[int] = 0,
        tied: bool = True,
        bias: bool = False,
        softcap: Positive[float] | None = None,
        z_loss: NonNegative[float] = 0.0,
    ):
        scored = (getattr(embedding, "inner", None) if transform else None) or width
        super().__init__(scored, vocabulary, tied=tied, bias=bias, softcap=softcap, z_loss=z_loss)
        found = specials.get("mask") if mask is None else mask
        if found is None or found >= vocabulary:
            raise UserError("masked_lm: the tokenizer has no mask token; set objective.mask to an id below the vocabulary's size")
        self.rate, self.masked, self.random, self.mask, self.late = rate, masked, random, found, late
        self.specials = sorted({*specials.values(), self.mask})
        self.transform = Transform(width, scored, linear, transform) if transform else None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        if knobs["masked"] + knobs["random"] > 1:
            yield f"masked and random are shares of the chosen tokens: {knobs['masked']:g} and {knobs['random']:g} are more than 1 together"
        encoder = getattr(getattr(context.get("run"), "model", None), "encoder", None)
        if not knobs["late"] or encoder is None:
            return
        if not hasattr(encoder.target, "run"):
            yield f"late masks need an encoder that can run a part of its blocks; {encoder.name!r} cannot"
        elif knobs["late"] >= encoder.knobs["depth"]:
            yield f"mask tokens skip {knobs['late']} blocks, but the encoder has {encoder.knobs['depth']}; late must be less"
        if by_place(encoder.knobs.get("mixer")):
            yield "relative positions count places, and without mask tokens these are others; use rotary, or set late to 0"

    @staticmethod
    def splits(knobs: dict[str, Any], depth: int) -> Iterable[int]:
        """After which block mask tokens join."""
        return [knobs["late"]]

    def transformed(self, h: Tensor) -> Tensor:
        return super().transformed(h if self.transform is None else self.transform(h))

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds inputs (corrupted), targets (-100 where not chosen) and units; drawn from (batch["key"], batch["rows"]) alone."""
        tokens_BT, segments_BT = batch["tokens"], batch.get("segments")
        draws = [
            hash_uniform(batch["rows"], tokens_BT.shape[1], batch["key"], salt_of(f"masked_lm/{use}"))
            for use in ("choose", "replace", "token")
        ]
        choose_BT, replace_BT, token_BT = (draw.to(tokens_BT.device) for draw in draws)
        candidates_BT = ~torch.isin(tokens_BT, torch.tensor(self.specials, device=tokens_BT.device))
        if segments_BT is not None:
            candidates_BT &= segments_BT > 0
        chosen_BT = candidates_BT & (choose_BT < self.rate)
        other_BT = (token_BT.double() * self.vocabulary).long().clamp(max=self.vocabulary - 1)
        replaced_BT = torch.where(
            replace_BT < self.masked, self.mask, torch.where(replace_BT < self.masked + self.random, other_BT, tokens_BT)
        )
        inputs_BT = torch.where(chosen_BT, replaced_BT, tokens_BT)
        return batch | {"inputs": inputs_BT, "targets": torch.where(chosen_BT, tokens_BT, -100), "units": chosen_BT.sum(dim=1)}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        h_BTD = self.encode_late(model, batch) if self.late else model.encode(batch, causal=False)  # type: ignore[operator]
        return self.losses(model, h_BTD, batch["targets"])

    def encode_late(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The encoder's output with mask tokens left out of its first ``late`` blocks."""
        x_BTD, context = model.embed(batch, causal=False)  # type: ignore[operator]
        segments_BT = torch.ones_like(batch["inputs"]) if context.segments_BT is None else context.segments_BT
        stays_BT = (batch["inputs"] != self.mask) & (segments_BT > 0)
        order_BK, there_BK = self._kept(stays_BT)
        index_BKD = order_BK[..., None].expand(-1, -1, x_BTD.shape[2])
        few = replace(
            context,
            shared={},
            positions_BT=context.positions_BT.gather(1, order_BK),
            segments_BT=segments_BT.gather(1, order_BK).masked_fill(~there_BK, 0),
            ids_BT=None if context.ids_BT is None else context.ids_BT.gather(1, order_BK),
        )
        start_BKD = x_BTD.gather(1, index_BKD)
        early_BKD = model.encoder.run(start_BKD, few, 0, self.late)  # type: ignore[union-attr, operator]
        x_BTD = x_BTD.scatter(1, index_BKD, torch.where(there_BK[..., None], early_BKD, start_BKD))
        h_BTD: Tensor = model.encoder.run(x_BTD, context, self.late, model.encoder.depth)  # type: ignore[union-attr, operator]
        return h_BTD

    @staticmethod
    def _kept(stays_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Positions that stay, in order and then others, (B, K), and which of the K stay. K is rounded up, so that shapes repeat."""
        length = stays_BT.shape[1]
        step = max(1, length // 16)
        most = min(length, -(-int(stays_BT.sum(dim=1).max()) // step) * step)
        order_BK = stays_BT.int().argsort(dim=1, descending=True, stable=True)[:, : max(1, most)]
        return order_BK, stays_BT.gather(1, order_BK)
