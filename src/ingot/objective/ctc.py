r"""Connectionist temporal classification: ids from sound without an alignment.   Graves et al. 2006, ICML, equations 3 and 8.

    loss = -log sum over paths a with collapse(a) = transcript of prod_t p(a_t | x)        p = softmax(W h_t + b)

collapse: repeated ids become one, then blanks are left out. W: (V + 1, D), the last row the blank.   Cost: 2 D V per position.
A transcript that needs more positions than there are has no path: its row is not scored, as if it had no transcript.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.parts import Fraction, NonNegative, Spec, part
from ..nn.dropout import Dropout
from ..nn.pooling import pooled
from ._masking import Hidden, places, stretches
from ._pooled import RowHead


@part
class CTC(nn.Module):
    """blank: the id that says nothing; one more than the tokenizer's ids when not given. hide, span: share and length of stretches that
    are hidden while training, as in pre-training. dropout: on what the head reads. output_scale: set by width-transferring initial
    values."""

    reads = ("transcript",)
    causal, couples_batch = False, False

    def __init__(
        self,
        width: int,
        linear: Spec,
        vocabulary: int | None = None,
        embedding: Any = None,
        *,
        blank: NonNegative[int] | None = None,
        hide: Fraction = 0.0,
        span: NonNegative[int] = 10,
        dropout: Fraction = 0.0,
    ):
        super().__init__()
        if vocabulary is None:
            raise UserError("objective.ctc needs a tokenizer, and a source whose transcript is named")
        self.letters = vocabulary + (blank is None)
        self.blank = vocabulary if blank is None else blank
        self.hide, self.span, self.embedding, self.output_scale = hide, span, embedding, 1.0
        self.head, self.dropout = RowHead(width, self.letters, "letters"), Dropout(dropout)
        self.hidden = Hidden(width) if hide else None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Any:
        if knobs["hide"] and not knobs["span"]:
            yield "hide wants a span of at least 1"

    def settled(self) -> dict[str, int]:
        """What the data decided."""
        return {"blank": self.blank}

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds units, the ids of each transcript that has a path, and masked where positions are hidden."""
        if "transcript" not in batch:
            raise UserError("ctc needs rows with a transcript; name its column in data.train.transcript")
        T, length_B = places(self.embedding, batch)
        said_BU = batch["transcript"]
        size_B = (said_BU >= 0).sum(dim=1)
        twice_B = ((said_BU[:, 1:] == said_BU[:, :-1]) & (said_BU[:, 1:] >= 0)).sum(dim=1)
        fits_B = (size_B + twice_B <= length_B) & (batch["rows"] >= 0)
        found = batch | {"units": size_B * fits_B, "positions_real": length_B}
        if self.hidden is None or not self.training:
            return found
        return found | {"masked": stretches(batch, T, length_B, self.hide, self.span, 0, "ctc")}

    def logits(self, model: Any, h: Tensor) -> Tensor:
        """(..., D) -> (..., V + 1), in fp32 at least."""
        scores: Tensor = self.head(h * self.output_scale if self.output_scale != 1.0 else h)
        return scores

    def _scores(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        hide = self.hidden.weight if self.hidden is not None and "masked" in batch else None
        h_BTD, context = model.encoded(batch, causal=False, hide=hide)
        return self.logits(model, self.dropout(h_BTD, context))

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        log_BTV = self._scores(model, batch).log_softmax(dim=-1)
        scored_B = batch["units"] > 0
        said_BU = batch["transcript"].clamp(min=0)
        length_B = batch["positions_real"].clamp(min=1)
        if log_BTV.is_meta or isinstance(log_BTV, torch._subclasses.FakeTensor):  # a plan: shapes alone, which the operator cannot tell
            return {"ctc": -log_BTV.sum(dim=(1, 2))}
        loss_B = F.ctc_loss(log_BTV.transpose(0, 1), said_BU, length_B, batch["units"], blank=self.blank, reduction="none")
        return {"ctc": torch.where(scored_B, loss_B, torch.zeros_like(loss_B))}

    def features(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(B, D): the mean of the real positions."""
        h_BTD, context = model.encoded(batch, causal=False)
        return pooled(h_BTD, context)

    def heard(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(B, T) int64: the ids on the likeliest path (one id for every position, collapsed), -100 behind."""
        _, length_B = places(self.embedding, batch)
        best_BT = self._scores(model, batch).argmax(dim=-1)
        place_T = torch.arange(best_BT.shape[1], device=best_BT.device)
        new_BT = torch.ones_like(best_BT, dtype=torch.bool)
        new_BT[:, 1:] = best_BT[:, 1:] != best_BT[:, :-1]
        kept_BT = new_BT & (best_BT != self.blank) & (place_T < length_B[:, None])
        order_BT = (~kept_BT).int().argsort(dim=1, stable=True)
        return torch.where(kept_BT, best_BT, -100).gather(1, order_BT)
