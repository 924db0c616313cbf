r"""A mixture of denoisers, each announced by a mode token.   Tay et al. 2022 (UL2), arXiv:2205.05131, section 3.1 and table 1.

    R   regular     spans of 3 or 8 tokens, 15 % hidden
    S   sequential  the last quarter of the row (a prefix language model)
    X   extreme     spans of 3 or 8 tokens with 50 % hidden, of 64 tokens with 15 % or 50 %

Every row draws one of the seven; its documents begin with the mode's token. What is read and asked is as in ``span_corruption``.

DEPARTS: a row keeps its number of tokens, so that decoder rows are as long as the denoiser that hides most needs; shorter ones are padded.
Documents packed into a row stay apart, so that the sequential denoiser hides the last documents of a row.

State: none.   Cost: 2 D V operations per asked position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.parts import NonNegative, Positive, part
from ..ops.random import hash_uniform, salt_of
from ._denoising import Denoising, Form, refusals, room
from ._spans import span_mask

# mode, share hidden, tokens of a span (none: all in one, at the end)
DENOISERS: tuple[tuple[str, float, float | None], ...] = (
    ("regular", 0.15, 3.0),
    ("regular", 0.15, 8.0),
    ("sequential", 0.25, None),
    ("extreme", 0.5, 3.0),
    ("extreme", 0.5, 8.0),
    ("extreme", 0.15, 64.0),
    ("extreme", 0.5, 64.0),
)
MODES = ("regular", "sequential", "extreme")


@part
class MixtureOfDenoisers(Denoising):
    """shares: how often a mode is drawn, by name; in proportion to its denoisers when not given. modes: their tokens' ids, by name; those
    that the tokenizer has under these names when not given, and no mode tokens where it has none. The rest: as in ``span_corruption``.
    """

    def __init__(
        self,
        width: int,
        vocabulary: int,
        specials: dict[str, int],
        decoder_width: int = 0,
        *,
        shares: dict[str, NonNegative[float]] | None = None,
        modes: dict[str, NonNegative[int]] | None = None,
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
        if problem := next(iter(_problems(shares, modes)), None):
            raise UserError(f"mixture_of_denoisers: {problem}")
        found: Mapping[str, int] = {mode: specials[mode] for mode in MODES if mode in specials} if modes is None else modes
        if found and set(found) != set(MODES):
            raise UserError(f"mixture_of_denoisers: mode tokens want all of {', '.join(MODES)}; the tokenizer has {', '.join(found)}")
        self.modes = [found[mode] for mode, _, _ in DENOISERS] if found else None
        self.visible = sorted({*self.visible, *found.values()})
        weights = [
            1.0 if shares is None else shares.get(mode, 0.0) / sum(other == mode for other, _, _ in DENOISERS) for mode, _, _ in DENOISERS
        ]
        self.bounds = [total / sum(weights) for total in accumulate(weights)]

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from _problems(knobs["shares"], knobs["modes"])
        length = context.get("sequence", 0)
        yield from refusals(knobs, context, max(1, round(round(length * 0.5) / 3)), rooms(length))

    def draw(self, batch: dict[str, Tensor]) -> Tensor:
        """(B,) which denoiser each row gets."""
        rows = batch["rows"]
        drawn_B1 = hash_uniform(rows, 1, batch["key"], salt_of("mixture_of_denoisers/choose")).to(rows.device).double()
        return (drawn_B1 >= torch.tensor(self.bounds, dtype=torch.float64, device=rows.device)).sum(dim=1).clamp(max=len(DENOISERS) - 1)

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As ``span_corruption``'s, and adds denoiser (B,)."""
        real_B, length = (self.documents(batch) > 0).sum(dim=1), batch["tokens"].shape[1]
        choice_B, device = self.draw(batch), batch["tokens"].device
        rate_B = torch.tensor([rate for _, rate, _ in DENOISERS], dtype=torch.float64, device=device)[choice_B]
        mean_B = torch.tensor([mean or 1e9 for _, _, mean in DENOISERS], dtype=torch.float64, device=device)[choice_B]
        hidden_BT = span_mask(real_B, length, rate_B, mean_B, batch["rows"], batch["key"], "mixture_of_denoisers")
        reads, asks = zip(*rooms(length), strict=True)
        mode_B1 = None if self.modes is None else torch.tensor(self.modes, device=device)[choice_B][:, None]
        return self.corrupted(batch, hidden_BT, (max(reads), max(asks)), mode_B1) | {"denoiser": choice_B}


def rooms(length: int) -> list[tuple[int, int]]:
    """What a row needs under each denoiser."""
    return [room(length, rate, mean or 1e9) for _, rate, mean in DENOISERS]


def _problems(shares: Mapping[str, float] | None, modes: Mapping[str, int] | None) -> Iterable[str]:
    for name, given in (("shares", shares), ("modes", modes)):
        if given is not None and (strange := [mode for mode in given if mode not in MODES]):
            yield f"{name}: no mode {strange[0]!r}; there are {', '.join(MODES)}"
    if shares is not None and not any(shares.get(mode, 0.0) > 0 for mode in MODES):
        yield "shares: some mode wants a share above 0"
