r"""Fill-in-the-middle: a causal model reads some documents with their middle moved to the end.   Bavarian et al. 2022, arXiv:2207.14255.

    document              prefix middle suffix        cut at two places drawn uniformly
    PSM                   <prefix> prefix <suffix> suffix <middle> middle <end>
    SPM, variant 2        <prefix> <suffix> suffix <middle> prefix middle <end>        (section 4, appendix D)

A document (the part of it that is in the row: "context level") is moved with probability ``rate``, in the second order with probability
``spm``. All its positions are scored, as in ``causal_lm``. To stay as long as it was, it gives up as many of its last tokens as markers
need room: four, an end token at its end among them. A token that opens documents (<s>) stays before all of it.

State: none.   Cost: that of ``causal_lm``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.parts import Fraction, NonNegative, Positive, part
from ..ops.random import hash_uniform, salt_of
from ._spans import borders, positions_in
from .causal_lm import CausalLM

MARKERS = ("prefix", "suffix", "middle")


@part
class FillInTheMiddle(CausalLM):
    """rate: share of documents moved. spm: share of these in the second order. shortest: documents below this length stay.

    prefix, suffix, middle: ids of the markers; the tokenizer's specials of these names when not given. The rest: as in ``causal_lm``.
    """

    def __init__(
        self,
        width: int,
        vocabulary: int,
        specials: dict[str, int],
        *,
        rate: Fraction = 0.5,
        spm: Fraction = 0.5,
        shortest: Positive[int] = 8,
        prefix: NonNegative[int] | None = None,
        suffix: NonNegative[int] | None = None,
        middle: NonNegative[int] | None = None,
        tied: bool = True,
        bias: bool = False,
        softcap: Positive[float] | None = None,
        z_loss: NonNegative[float] = 0.0,
    ):
        super().__init__(width, vocabulary, tied=tied, bias=bias, softcap=softcap, z_loss=z_loss)
        given = {
            name: specials.get(name) if value is None else value for name, value in zip(MARKERS, (prefix, suffix, middle), strict=True)
        }
        for name, value in given.items():
            if value is None or value >= vocabulary:
                raise UserError(
                    f"fill_in_the_middle: the tokenizer has no {name!r} token; put {', '.join(MARKERS)} into data.tokenizer.specials, or set objective.{name}"
                )
        self.rate, self.spm, self.shortest, self.end = rate, spm, max(5, shortest), specials.get("end", 0)
        self.opens = specials.get("begin", -1)
        self.markers = tuple(int(given[name] or 0) for name in MARKERS)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from CausalLM.check(knobs, context)
        run = context.get("run")
        known = run.data.tokenizer.knobs.get("specials") if run is not None and run.data.tokenizer is not None else None
        if known is not None and (missing := [name for name in MARKERS if knobs[name] is None and name not in known]):
            yield f"the tokenizer has no {missing[0]!r} token; put {', '.join(MARKERS)} into data.tokenizer.specials"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As ``causal_lm``, of moved tokens."""
        return super().prepare(batch | {"tokens": self.moved(batch)})

    def moved(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, T) tokens; documents and their places stay."""
        tokens_BT = batch["tokens"]
        length, device = tokens_BT.shape[1], tokens_BT.device
        segments_BT = batch.get("segments", torch.ones_like(tokens_BT))
        place_BT = positions_in(segments_BT)
        start_BT = torch.arange(length, device=device) - place_BT
        run_BT = borders(segments_BT).long().cumsum(1) - 1
        size_BT = torch.zeros_like(run_BT).scatter_add_(1, run_BT, torch.ones_like(run_BT)).gather(1, run_BT)
        draws = [
            hash_uniform(batch["rows"], length, batch["key"], salt_of(f"fill_in_the_middle/{use}")).to(device)
            for use in ("move", "order", "one", "other")
        ]
        move_BT, order_BT, one_BT, other_BT = (draw.gather(1, start_BT) for draw in draws)
        opened_BT = (tokens_BT.gather(1, start_BT) == self.opens).long()
        place_BT, start_BT, size_BT = place_BT - opened_BT, start_BT + opened_BT, size_BT - opened_BT
        kept_BT = (size_BT - 4).clamp(min=0)
        cuts = [(draw.double() * (kept_BT + 1)).long().minimum(kept_BT) for draw in (one_BT, other_BT)]
        first_BT, second_BT = torch.minimum(*cuts), torch.maximum(*cuts)
        new_BT = torch.where(
            order_BT < self.spm,
            *(self._laid(order, place_BT, kept_BT, first_BT, second_BT, start_BT, tokens_BT) for order in ("spm", "psm")),
        )
        new_BT = torch.where(place_BT == size_BT - 1, self.end, new_BT)
        moves_BT = (move_BT < self.rate) & (size_BT >= self.shortest) & (segments_BT > 0) & (place_BT >= 0)
        return torch.where(moves_BT, new_BT, tokens_BT)

    def _laid(self, order: str, place: Tensor, kept: Tensor, first: Tensor, second: Tensor, start: Tensor, tokens: Tensor) -> Tensor:
        """Every position's token in one order, from its place in the document; prefix [0, first), middle [first, second), suffix [second, kept)."""
        prefix, suffix, middle = self.markers
        rest = kept - second
        if order == "psm":
            marks = [(place == 0, prefix), (place == first + 1, suffix), (place == first + 2 + rest, middle)]
            source = torch.where(
                place <= first,
                place - 1,
                torch.where(place <= first + 1 + rest, second + place - first - 2, first + place - (first + 3 + rest)),
            )
        else:
            marks = [(place == 0, prefix), (place == 1, suffix), (place == 2 + rest, middle)]
            source = torch.where(place <= 1 + rest, second + place - 2, place - (3 + rest))
        found = tokens.gather(1, (start + source).clamp(0, tokens.shape[1] - 1))
        for where, marker in marks:
            found = torch.where(where, marker, found)
        return found
