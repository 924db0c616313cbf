r"""Telling a masked position's own quantized value from others of the row.   Baevski et al. 2020 (wav2vec 2.0), arXiv:2006.11477, section 3.

    contrastive = sum over masked t of -log exp(cos(A h_t, q_t) / k) / (sum over q in {q_t and the negatives} of exp(cos(A h_t, q) / k))
    q_t = B [e_1, ..., e_G]        e_g: the entry of codebook g with the largest l + n,  l = W z_t + b, n Gumbel noise (equation 1)

z: the stem's values, not masked. Forward the hard choice, backward the gradient of softmax((l + n) / temperature). The negatives are
drawn uniformly from the row's other masked positions, by hash; one whose codes are those of q_t is left out.

    diversity = weight (1/G) sum_g (1 - exp(H(p_g)) / V)        p: mean of softmax(l) over masked positions, H its entropy

DEPARTS: the paper's p is the batch's own, which would tie rows together (gradients would change under accumulation). Here the term is
replaced by its tangent at a running average of p (kept from the whole step's counts, over all ranks): additive over rows, and equal in
value and gradient where the average is the batch's p.

temperature is scheduled as ``objective.temperature``.   State: G V averages.   Cost: per masked position 2 D E + 2 K E; 2 C G V per position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.axes import label
from ..core.errors import UserError
from ..core.parts import Fraction, NonNegative, Positive, Spec, part
from ..nn.linear.dense import Dense
from ..ops.random import hash_uniform, salt_of
from ._masking import Hidden, places, stretches, unit


class Quantizer(nn.Module):
    """G codebooks of V entries each; the entries of one choice, side by side, are its value. usage: running average of p, (G, V)."""

    usage: Tensor

    def __init__(self, inputs: int, width: int, groups: int, entries: int, memory: float):
        super().__init__()
        self.groups, self.entries, self.memory = groups, entries, memory
        self.scores = Dense(inputs=inputs, outputs=groups * entries, bias=True, axes=("entries", "channels"), role="head")
        self.codebook = nn.Parameter(torch.empty(groups, entries, width // groups).uniform_())
        label(self, "codebook", "groups", "entries", "code", role="embedding")
        self.register_buffer("usage", torch.full((groups, entries), 1 / entries))
        self.register_buffer("seen", torch.zeros(()))
        self.side: dict[str, Tensor] | None = None

    def initial(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Entries uniform from 0 to 1, as published."""
        return torch.empty(self.codebook.shape).uniform_(generator=generator) if name == "codebook" else None

    def forward(self, z_BTC: Tensor, noise_BTGV: Tensor | None, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Values (B, T, E), codes (B, T, G) and p (B, T, G, V) of every position."""
        scores = self.scores(z_BTC)
        l_BTGV = scores.to(torch.promote_types(scores.dtype, torch.float32)).unflatten(-1, (self.groups, self.entries))
        noisy = l_BTGV if noise_BTGV is None else l_BTGV + noise_BTGV.to(l_BTGV.dtype)
        codes_BTG = noisy.argmax(dim=-1)
        chosen = F.one_hot(codes_BTG, self.entries).to(l_BTGV.dtype)
        if noise_BTGV is not None:
            soft = (noisy / temperature).softmax(dim=-1)
            chosen = chosen + soft - soft.detach()
        values = torch.einsum("btgv,gvc->btgc", chosen, self.codebook.to(chosen.dtype)).flatten(2)
        return values, codes_BTG, l_BTGV.softmax(dim=-1)

    def diversity(self, p_BTGV: Tensor, masked_BT: Tensor) -> Tensor:
        """(B,): the tangent of the term at the running average, summed over masked positions."""
        usage_GV = self.usage.to(p_BTGV.dtype).clamp(min=1e-7)
        entropy_G1 = -(usage_GV * usage_GV.log()).sum(dim=1, keepdim=True)
        slope_GV = entropy_G1.exp() * usage_GV.log() / (self.groups * self.entries)
        level = (1 - entropy_G1.exp() * (1 - entropy_G1) / self.entries).mean()
        weight_BT = masked_BT.to(p_BTGV.dtype)
        return torch.einsum("btgv,gv,bt->b", p_BTGV, slope_GV, weight_BT) + level * weight_BT.sum(dim=1)

    def count(self, p_BTGV: Tensor, codes_BTG: Tensor, masked_BT: Tensor) -> None:
        """Leave what the running average is made of."""
        weight_BT = masked_BT.to(p_BTGV.dtype)
        hits = F.one_hot(codes_BTG, self.entries).to(p_BTGV.dtype)
        self.side = {
            "count/usage": torch.einsum("btgv,bt->gv", p_BTGV.detach(), weight_BT),
            "count/positions": weight_BT.sum(),
            "count/codes": torch.einsum("btgv,bt->gv", hits, weight_BT),
        }

    @torch.no_grad()
    def counted(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Take a step's totals into the average. Returns the perplexity of the codes that were chosen, over all codebooks' entries."""
        positions = totals["positions"].clamp(min=1)
        share = self.memory if bool(self.seen) else 0.0
        self.usage.lerp_((totals["usage"] / positions).to(self.usage.dtype), 1 - share)
        self.seen.fill_(1.0)
        p_GV = (totals["codes"] / positions).double()
        return {"code_perplexity": float((-(p_GV * p_GV.clamp(min=1e-12).log()).sum(dim=1)).exp().sum())}


@part
class Wav2Vec2(nn.Module):
    """share, span: of what is masked. negatives: K. temperature: of the choice; logit_temperature: k. groups, entries: G, V. code: width
    of a value; units: E of the comparison. diversity: its weight. memory: how much of the running average a step keeps."""

    causal, couples_batch = False, False

    def __init__(
        self,
        width: int,
        linear: Spec,
        embedding: Any,
        *,
        share: Fraction = 0.65,
        span: Positive[int] = 10,
        negatives: Positive[int] = 100,
        temperature: Positive[float] = 2.0,
        logit_temperature: Positive[float] = 0.1,
        groups: Positive[int] = 2,
        entries: Positive[int] = 320,
        code: Positive[int] = 256,
        units: Positive[int] = 256,
        diversity: NonNegative[float] = 0.1,
        memory: Fraction = 0.9,
    ):
        super().__init__()
        if not hasattr(embedding, "channels"):
            raise UserError("objective wav2vec2 quantizes what a waveform stem gives: set model.embedding to waveform")
        self.share, self.span, self.negatives, self.temperature = share, span, negatives, temperature
        self.logit_temperature, self.diversity, self.embedding = logit_temperature, diversity, embedding
        self.hidden = Hidden(width)
        self.quantizer = Quantizer(embedding.channels, code, groups, entries, memory)
        self.head = linear.build(inputs=width, outputs=units, bias=True, axes=("units", "width"), role="matrix")
        self.values = linear.build(inputs=code, outputs=units, bias=True, axes=("units", "code"), role="matrix")

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Any:
        if knobs["code"] % knobs["groups"]:
            yield f"{knobs['groups']} groups do not divide a code of {knobs['code']}"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds masked (B, T), negatives (B, T, K) as positions of the row, and units: masked positions of rows that have two or more."""
        T, length_B = places(self.embedding, batch)
        masked_BT = stretches(batch, T, length_B, self.share, self.span, 2, "wav2vec2")
        count_B = masked_BT.sum(dim=1)
        order_BT = (~masked_BT).int().argsort(dim=1, stable=True)
        u_BN = hash_uniform(batch["rows"], T * self.negatives, batch["key"], salt_of("wav2vec2/negatives")).to(masked_BT.device)
        pick_BTK = (u_BN.double().view(-1, T, self.negatives) * (count_B - 1).clamp(min=1)[:, None, None]).long()
        own_BT = masked_BT.long().cumsum(dim=1) - 1
        pick_BTK = (pick_BTK + (pick_BTK >= own_BT[..., None])).clamp(max=T - 1)
        negatives_BTK = order_BT.gather(1, pick_BTK.flatten(1)).view_as(pick_BTK)
        return batch | {"masked": masked_BT, "negatives": negatives_BTK, "units": count_B * (count_B > 1)}

    def noise(self, batch: dict[str, Tensor], T: int) -> Tensor:
        """(B, T, G, V) Gumbel noise, by row."""
        size = (T, self.quantizer.groups, self.quantizer.entries)
        u = hash_uniform(batch["rows"], T * size[1] * size[2], batch["key"], salt_of("wav2vec2/gumbel")).view(-1, *size)
        return -(-(u.clamp(min=2.0**-25).log())).log()

    def compared(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, T, 1 + K) scores, the right one first, and p (B, T, G, V)."""
        h_BTD, context = model.encoded(batch, causal=False, hide=self.hidden.weight)
        z_BTC = context.shared["stem"][0].to(h_BTD.dtype)
        noise = self.noise(batch, z_BTC.shape[1]).to(h_BTD.device) if self.training else None
        value, codes_BTG, p_BTGV = self.quantizer(z_BTC, noise, self.temperature)
        if self.training:
            self.quantizer.count(p_BTGV, codes_BTG, batch["masked"] & (batch["units"] > 0)[:, None])
        q_BTE, a_BTE, index_BN = unit(self.values(value.to(h_BTD.dtype))), unit(self.head(h_BTD)), batch["negatives"].flatten(1)
        others_BTKE = q_BTE.gather(1, index_BN[..., None].expand(-1, -1, q_BTE.shape[2])).unflatten(1, batch["negatives"].shape[1:])
        scores = (
            torch.cat([(a_BTE * q_BTE).sum(dim=-1, keepdim=True), torch.einsum("bte,btke->btk", a_BTE, others_BTKE)], dim=2)
            / self.logit_temperature
        )
        codes_BTKG = codes_BTG.gather(1, index_BN[..., None].expand(-1, -1, codes_BTG.shape[2])).unflatten(1, batch["negatives"].shape[1:])
        alike_BTK = (codes_BTKG == codes_BTG[:, :, None]).all(dim=-1)
        return scores.masked_fill(F.pad(alike_BTK, (1, 0)), float("-inf")), p_BTGV

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        scores_BTN, p_BTGV = self.compared(model, batch)
        scored_BT = batch["masked"] & (batch["units"] > 0)[:, None]
        losses = {"contrastive": -(scores_BTN.log_softmax(dim=-1)[..., 0] * scored_BT).sum(dim=1)}
        return losses | ({"diversity": self.diversity * self.quantizer.diversity(p_BTGV, scored_BT)} if self.diversity else {})

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per row: share of the masked positions whose own value is the likeliest."""
        best_BT = self.compared(model, batch)[0].argmax(dim=-1)
        return {"accuracy": ((best_BT == 0) & batch["masked"]).sum(dim=1).double() / batch["units"].clamp(min=1)}

    def vitals(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """For health, per row: share of the masked positions at which each entry is chosen, (B, G, V)."""
        hits = F.one_hot(self.compared(model, batch)[1].argmax(dim=-1), self.quantizer.entries).double()
        share_BT = batch["masked"].double() / batch["masked"].sum(dim=1, keepdim=True).clamp(min=1)
        return {"chosen": torch.einsum("btgv,bt->bgv", hits, share_BT)}

    def bands(self, means: Mapping[str, Tensor]) -> dict[str, tuple[float, float, float]]:
        """Over all codebooks' entries, as in the ledger; less than two of each codebook tell nothing apart."""
        used = float(torch.special.entr(means["chosen"]).sum(dim=-1).exp().sum())
        return {"code_perplexity": (used, 2.0 * self.quantizer.groups, math.inf)}
