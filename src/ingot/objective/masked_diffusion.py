r"""Masked diffusion: tokens are hidden one by one with time t, and the model undoes it in any order.

Sahoo et al. 2024 (MDLM), arXiv:2406.07524, equation 10 with the linear schedule; Nie et al. 2025 (LLaDA), arXiv:2502.09992, equation 3.

    t ~ U(0, 1) per row        each token becomes the mask token with probability t, by itself
    loss = 1/t sum over hidden -log p(token | corrupted row)        per token at least its negative log-likelihood, in expectation

With ``even`` the times of consecutive rows spread evenly over (0, 1) (a sequence of the golden ratio, shifted by the seed's key), which
lowers the variance as MDLM's stratified times do, while each row's time still follows from its number alone.
Writing text: ``ingot generate``, by ``model/generate.py: unmask``.

State: none.   Cost: 2 D V operations per hidden position, half of all on average.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.parts import Fraction, NonNegative, Positive, part
from ..ops.random import hash_uniform, salt_of
from ._head import VocabularyObjective

GOLDEN = 0.6180339887498949


@part
class MaskedDiffusion(VocabularyObjective):
    """least: the smallest t, which bounds the weight 1/t. even: see above. mask: id of the mask token; the tokenizer's when not given.

    tied, bias, softcap, z_loss: as in ``causal_lm``. All real tokens can be hidden, the end token too.
    """

    causal, writer = False, "by_unmasking"

    def __init__(
        self,
        width: int,
        vocabulary: int,
        specials: dict[str, int],
        *,
        least: Fraction = 1e-3,
        even: bool = True,
        mask: NonNegative[int] | None = None,
        tied: bool = True,
        bias: bool = False,
        softcap: Positive[float] | None = None,
        z_loss: NonNegative[float] = 0.0,
    ):
        super().__init__(width, vocabulary, tied=tied, bias=bias, softcap=softcap, z_loss=z_loss)
        found = specials.get("mask") if mask is None else mask
        if found is None or found >= vocabulary:
            raise UserError("masked_diffusion: the tokenizer has no mask token; set objective.mask to an id below the vocabulary's size")
        self.least, self.even, self.mask = max(least, 1e-6), even, found

    def times(self, batch: dict[str, Tensor]) -> Tensor:
        """(B,) float64 in [least, 1)."""
        rows, key = batch["rows"], batch["key"]
        if self.even:
            shift = hash_uniform(torch.zeros_like(rows[:1]), 1, key, salt_of("masked_diffusion/shift"))[0].to(rows.device).double()
            u_B = (shift + rows.double() * GOLDEN) % 1.0
        else:
            u_B = hash_uniform(rows, 1, key, salt_of("masked_diffusion/time"))[:, 0].to(rows.device).double()
        return self.least + (1 - self.least) * u_B

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds time (B,), inputs, hidden (the tokens that are asked for, else -100) and units: all tokens that could be hidden."""
        tokens_BT, time_B = batch["tokens"], self.times(batch)
        draw_BT = hash_uniform(batch["rows"], tokens_BT.shape[1], batch["key"], salt_of("masked_diffusion/hide")).to(tokens_BT.device)
        real_BT = batch["segments"] > 0 if "segments" in batch else (batch["rows"] >= 0)[:, None].expand_as(tokens_BT)
        can_BT = real_BT & (tokens_BT != self.mask)
        hidden_BT = can_BT & (draw_BT < time_B[:, None])
        return batch | {
            "time": time_B,
            "inputs": tokens_BT.masked_fill(hidden_BT, self.mask),
            "hidden": torch.where(hidden_BT, tokens_BT, -100),
            "units": can_BT.sum(dim=1),
        }

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = self.losses(model, model.encode(batch, causal=False), batch["hidden"])  # type: ignore[operator]
        return {name: loss / batch["time"].to(loss.dtype) for name, loss in losses.items()}
