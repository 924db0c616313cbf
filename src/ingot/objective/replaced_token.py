r"""Replaced-token detection: which tokens has a small generator put in?   Clark et al. 2020 (ELECTRA), arXiv:2003.10555, section 2.

    chosen        round(rate n) of a row's n tokens; the generator sees mask tokens there, and its guesses x^ are drawn from p_G
    corrupted     the row with x^ at the chosen places; r_t = 1 where x^_t differs from the token that was there, else 0
    loss          weight sum_t BCE(score_t, r_t)  +  sum over chosen -log p_G(token)            score = w . gelu(W h + b) + c

The generator is a smaller encoder over the model's own embedding, trained with it; its guesses carry no gradient. Its head: gelu, norm,
the embedding's matrix. Without a generator guesses come from a table instead: running counts of tokens, by the hashed token before
where ``contexts`` is above 1, which costs next to nothing and needs no training.

State: counts (contexts, V) float64, where there is no generator.
Cost: the generator, and 4 D V operations per chosen position; 2 D^2 per position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.axes import label
from ..core.errors import UserError
from ..core.parts import Fraction, NonNegative, Positive, Slot, Spec, part
from ..ops.cross_entropy import linear_cross_entropy
from ..ops.random import hash_uniform, salt_of
from ._pooled import RowHead


class GeneratorHead(nn.Module):
    """norm(gelu(W h + b)), from the generator's width to the embedding's, and a bias on the scores."""

    def __init__(self, width: int, outputs: int, vocabulary: int, linear: Spec, norm: Spec):
        super().__init__()
        self.linear = linear.build(inputs=width, outputs=outputs, bias=True, axes=("width", "width"), role="matrix")
        self.norm = norm.build(width=outputs)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        label(self, "bias", "vocabulary", role="bias")

    def forward(self, h: Tensor) -> Tensor:
        transformed: Tensor = self.norm(F.gelu(self.linear(h)))
        return transformed


@part
class ReplacedToken(nn.Module):
    """rate: share of tokens replaced. weight: of the detection. generator: a small encoder; none: a table of counts. generator_width: its
    width, a third of the model's when not given. norm: of the generator's head. contexts: rows of the table. mask: id of the mask token.
    """

    causal, couples_batch = False, False
    reads = ("tokens",)
    reads_scaled = "dense"  # which of its layers reads h times output_scale
    counts: Tensor
    allowed: Tensor

    def __init__(
        self,
        width: int,
        vocabulary: int,
        linear: Spec,
        specials: dict[str, int],
        sequence: int = 0,
        *,
        rate: Fraction = 0.15,
        weight: Positive[float] = 50.0,
        generator: Slot["model.encoder"] | None = None,
        generator_width: Positive[int] | None = None,
        norm: Slot["nn.norm"] = "layer",
        contexts: Positive[int] = 1,
        mask: NonNegative[int] | None = None,
    ):
        super().__init__()
        found = specials.get("mask") if mask is None else mask
        if generator is not None and (found is None or found >= vocabulary):
            raise UserError("replaced_token: the tokenizer has no mask token; set objective.mask to an id below the vocabulary's size")
        self.rate, self.weight, self.mask, self.output_scale, self.size = rate, weight, found or 0, 1.0, vocabulary
        self.specials = sorted({*specials.values(), *([] if found is None else [found])})
        self.dense = linear.build(inputs=width, outputs=width, bias=True, axes=("width", "width"), role="matrix")
        self.head = RowHead(width, 1, "classes")
        self.generator = self.enter = self.generator_head = None
        if generator is None:
            allowed = torch.ones(vocabulary, dtype=torch.float64)
            allowed[[index for index in self.specials if index < vocabulary]] = 0.0
            self.register_buffer("allowed", allowed, persistent=False)
            self.register_buffer("counts", torch.zeros(contexts, vocabulary, dtype=torch.float64))
            return
        inner = generator_width or max(1, width // 3)
        self.enter = (
            linear.build(inputs=width, outputs=inner, bias=True, axes=("width", "width"), role="matrix") if inner != width else None
        )
        self.generator = generator.build(width=inner, sequence=sequence)
        self.generator_head = GeneratorHead(inner, width, vocabulary, linear, norm)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        if knobs["generator"] is not None and knobs["contexts"] > 1:
            yield "contexts are those of the table of counts, which a generator replaces; leave one of them out"
        inner = knobs["generator_width"] or max(1, (context.get("width") or 3) // 3)
        mixer = knobs["generator"].knobs.get("mixer") if knobs["generator"] is not None else None
        if mixer is not None and mixer.knobs.get("heads") and not mixer.knobs.get("head_dim") and inner % mixer.knobs["heads"]:
            yield f"{mixer.knobs['heads']} heads do not divide the generator's width {inner}; set generator_width or its heads"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds chosen (B, K) positions, wanted (B, K) their tokens or -100, guesses (B, K) uniform draws, units and units/generator."""
        tokens_BT, length = batch["tokens"], batch["tokens"].shape[1]
        draws = [
            hash_uniform(batch["rows"], length, batch["key"], salt_of(f"replaced_token/{use}")).to(tokens_BT.device)
            for use in ("choose", "guess")
        ]
        real_BT = batch["segments"] > 0 if "segments" in batch else (batch["rows"] >= 0)[:, None].expand_as(tokens_BT)
        candidates_BT = real_BT & ~torch.isin(tokens_BT, torch.tensor(self.specials, device=tokens_BT.device))
        there_B = candidates_BT.sum(dim=1)
        count_B = (there_B * self.rate).round().long().clamp(min=1).minimum(there_B)
        most = min(length, max(1, math.ceil(length * self.rate)))
        order_BK = draws[0].masked_fill(~candidates_BT, 2.0).argsort(dim=1, stable=True)[:, :most]
        wanted_BK = tokens_BT.gather(1, order_BK).masked_fill(torch.arange(most, device=tokens_BT.device) >= count_B[:, None], -100)
        return batch | {
            "chosen": order_BK,
            "wanted": wanted_BK,
            "guesses": draws[1][:, :most],
            "units": real_BT.sum(dim=1),
            "units/generator": count_B,
        }

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = self._losses(model, batch)[0]
        return losses | {"detection": self.weight * losses["detection"]}

    def measured(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[str, Tensor, Tensor]:
        """The detection's loss before its weight."""
        return "detection", self._losses(model, batch)[0]["detection"], batch["units"]

    def _losses(self, model: Any, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses without weights, scores (B, T), and which tokens are replaced (B, T)."""
        further: dict[str, Tensor] = {}
        if self.generator is None:
            guessed_BK = self._from_table(batch)
        else:
            h_BKD = self.generated(model, batch)
            weight = model.embedding.weight
            further["generator"] = linear_cross_entropy(h_BKD, weight, batch["wanted"], bias_V=self.generator_head.bias)[0]  # type: ignore[union-attr]
            guessed_BK = self._sampled(h_BKD.detach(), weight.detach(), batch["guesses"])
        inputs_BT = self.corrupted(batch, guessed_BK)
        replaced_BT = inputs_BT != batch["tokens"]
        score_BT = self.logits(model, model.encode(batch | {"inputs": inputs_BT}, causal=False))
        loss_BT = F.binary_cross_entropy_with_logits(score_BT, replaced_BT.to(score_BT.dtype), reduction="none")
        real_BT = batch["segments"] > 0 if "segments" in batch else (batch["rows"] >= 0)[:, None]
        return {"detection": (loss_BT * real_BT).sum(dim=1)} | further, score_BT, replaced_BT

    def generated(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """What the generator's scores are made of, (B, K, D), at the chosen positions."""
        tokens_BT, scored_BK = batch["tokens"], batch["wanted"] >= 0
        hidden_BT = torch.zeros_like(tokens_BT).scatter_add_(1, batch["chosen"], scored_BK.long()) > 0
        x_BTD, context = model.embed(batch | {"inputs": tokens_BT.masked_fill(hidden_BT, self.mask)}, causal=False)
        h_BTG = self.generator(x_BTD if self.enter is None else self.enter(x_BTD), context)  # type: ignore[misc]
        return self.generator_head(h_BTG.gather(1, batch["chosen"][..., None].expand(-1, -1, h_BTG.shape[2])))  # type: ignore[misc, no-any-return]

    def corrupted(self, batch: dict[str, Tensor], guessed_BK: Tensor) -> Tensor:
        """The row with guesses at the chosen places, (B, T)."""
        kept_BK = batch["tokens"].gather(1, batch["chosen"])
        return batch["tokens"].scatter(1, batch["chosen"], torch.where(batch["wanted"] >= 0, guessed_BK, kept_BK))

    @torch.no_grad()
    def _sampled(self, h_BKD: Tensor, weight_VD: Tensor, draws_BK: Tensor) -> Tensor:
        """One id per chosen position from the generator's distribution, row by row, so that few scores are held at once."""
        bias, wide, found = self.generator_head.bias, torch.promote_types(h_BKD.dtype, torch.float32), []  # type: ignore[union-attr]
        for h_KD, draw_K in zip(h_BKD, draws_BK, strict=True):
            sums_KV = (F.linear(h_KD, weight_VD.to(h_KD.dtype)).to(wide) + bias.to(wide)).softmax(dim=1).cumsum(dim=1)  # type: ignore[union-attr, operator]
            found.append((sums_KV <= draw_K[:, None] * sums_KV[:, -1:]).sum(dim=1))
        return torch.stack(found).clamp(max=self.size - 1)

    @torch.no_grad()
    def _from_table(self, batch: dict[str, Tensor]) -> Tensor:
        """One id per chosen position from the counts so far; what this batch adds to them is left for the loop to sum."""
        tokens_BT, contexts = batch["tokens"], len(self.counts)
        before_BT = torch.zeros_like(tokens_BT)
        before_BT[:, 1:] = tokens_BT[:, :-1] * 40503 % contexts
        share_CV = (self.counts + 1 / self.size) * self.allowed
        sums_CV = (share_CV / share_CV.sum(dim=1, keepdim=True)).cumsum(dim=1)
        row_BK = before_BT.gather(1, batch["chosen"])
        flat = (sums_CV / sums_CV[:, -1:] + torch.arange(contexts, device=tokens_BT.device)[:, None]).flatten()
        found_BK = torch.searchsorted(flat, row_BK + batch["guesses"].double(), right=True) - row_BK * self.size
        if self.training:
            real_BT = (batch["segments"] > 0 if "segments" in batch else (batch["rows"] >= 0)[:, None].expand_as(tokens_BT)).to(flat.dtype)
            seen = torch.zeros_like(flat).index_add_(0, (before_BT * self.size + tokens_BT).flatten(), real_BT.flatten())
            self.side = {"count/tokens": seen.view_as(self.counts)}
        return found_BK.clamp(0, self.size - 1)

    def counted(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """Take over what the step's rows hold."""
        self.counts += totals["tokens"].to(self.counts)
        return {}

    def logits(self, model: nn.Module, h: Tensor) -> Tensor:
        """(..., D) -> (...): log odds that a token was replaced, in fp32 at least."""
        h = F.gelu(self.dense(h * self.output_scale if self.output_scale != 1.0 else h))
        scores: Tensor = self.head(h)[..., 0]
        return scores

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per row, for evaluation: share of replaced tokens that are found, and of the others that are taken for replaced."""
        _, score_BT, replaced_BT = self._losses(model, batch)
        real_BT = batch["segments"] > 0 if "segments" in batch else (batch["rows"] >= 0)[:, None].expand_as(replaced_BT)
        said_BT = (score_BT > 0) & real_BT
        found, false = ((said_BT & kind).sum(1) / (kind & real_BT).sum(1).clamp(min=1) for kind in (replaced_BT, ~replaced_BT))
        return {"found": found.double(), "false_alarms": false.double()}
