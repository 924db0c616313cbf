r"""Causal language modeling: predict the next token of the same document.

    loss = -sum_t log p(token_{t+1} | token_1 .. token_t)        z-loss: z sum_t log^2 Z_t  (PaLM, arXiv:2204.02311, section 5)

Softcap on the scores: Gemma 2, arXiv:2408.00118.   Cost: 2 D V operations per scored position; all scores are never held at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.parts import NonNegative, Positive, part
from ._head import VocabularyObjective


@part
class CausalLM(VocabularyObjective):
    """tied: the head is the embedding's matrix. bias: on the scores. softcap: their bound. z_loss: weight of the squared log-normalizer."""

    causal = True

    def __init__(
        self,
        width: int,
        vocabulary: int,
        *,
        tied: bool = True,
        bias: bool = False,
        softcap: Positive[float] | None = None,
        z_loss: NonNegative[float] = 0.0,
    ):
        super().__init__(width, vocabulary, tied=tied, bias=bias, softcap=softcap, z_loss=z_loss)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        if context.get("sequence", 2) < 2:
            yield "a row of one token has no next one to predict; set data.sequence to 2 or more"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds targets (B, T), the next token within the segment or -100, and units (B,)."""
        tokens_BT, segments_BT = batch["tokens"], batch.get("segments")
        targets_BT = torch.full_like(tokens_BT, -100)
        targets_BT[:, :-1] = tokens_BT[:, 1:]
        if segments_BT is not None:
            same = (segments_BT[:, 1:] == segments_BT[:, :-1]) & (segments_BT[:, 1:] > 0)
            targets_BT[:, :-1].masked_fill_(~same, -100)
        return batch | {"targets": targets_BT, "units": (targets_BT >= 0).sum(dim=1)}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.losses(model, model.encode(batch, causal=True), batch["targets"])  # type: ignore[operator]
