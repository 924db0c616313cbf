r"""Span corruption: hidden spans become sentinels, and the decoder writes them.   Raffel et al. 2020 (T5), arXiv:1910.10683, section 3.1.4.

    read     Thank you <0> me to your party <1> week .
    asked    <0> for inviting <1> last <end>            loss = -sum_t log p(asked_t | read, asked_<t)

Of a row of n tokens round(rate n) are hidden in round(rate n / mean) spans. Encoder rows have n - hidden + spans positions,
decoder rows hidden + spans, and both some spare ones (see ``_denoising``): T5's 512 and 114 are rows of 568 tokens.

DEPARTS: documents packed into a row stay apart: a span ends with its document, and sentinels count anew in each. The position of
spans does not wrap around.

State: none.   Cost: 2 D V operations per asked position.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..core.parts import Fraction, NonNegative, Positive, part
from ._denoising import Denoising, Form, refusals, room
from ._spans import span_mask


@part
class SpanCorruption(Denoising):
    """rate: share of tokens hidden. mean: tokens of a span. form: ``causal`` puts what is asked behind what is read, in one stack.

    sentinels: their ids, the tokenizer's when not given. start: id that a decoder begins with; the pad token, else the end token, when not
    given. scaled: multiply by D^-1/2 before the head, as T5 does where the head is tied. tied, bias, softcap, z_loss: as in ``causal_lm``.
    """

    def __init__(
        self,
        width: int,
        vocabulary: int,
        specials: dict[str, int],
        decoder_width: int = 0,
        *,
        rate: Fraction = 0.15,
        mean: Positive[float] = 3.0,
        form: Form = "encoder_decoder",
        sentinels: list[NonNegative[int]] | None = None,
        start: NonNegative[int] | None = None,
        scaled: bool = False,
        tied: bool = True,
        bias: bool = False,
        softcap: Positive[float] | None = None,
        z_loss: NonNegative[float] = 0.0,
    ):
        super().__init__(
            width,
            vocabulary,
            specials,
            decoder_width,
            form=form,
            sentinels=sentinels,
            start=start,
            scaled=scaled,
            tied=tied,
            bias=bias,
            softcap=softcap,
            z_loss=z_loss,
        )
        self.rate, self.mean = rate, mean

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        length = context.get("sequence", 0)
        hidden = max(1, round(length * knobs["rate"]))
        yield from refusals(knobs, context, max(1, round(hidden / knobs["mean"])), [room(length, knobs["rate"], knobs["mean"])])

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replaces tokens, segments and positions by the corrupted row's; adds decoder_tokens and so on, targets and units."""
        real_B = (self.documents(batch) > 0).sum(dim=1)
        length = batch["tokens"].shape[1]
        rate_B, mean_B = (torch.full_like(real_B, value, dtype=torch.float64) for value in (self.rate, self.mean))
        hidden_BT = span_mask(real_B, length, rate_B, mean_B, batch["rows"], batch["key"], "span_corruption")
        return self.corrupted(batch, hidden_BT, room(length, self.rate, self.mean))
