r"""Masked prediction of hidden units.   Hsu et al. 2021 (HuBERT), arXiv:2106.07447, sections II.A to II.C.

    p_t(c) = softmax_c(cos(A h_t, e_c) / temperature)        loss = w_m sum over masked t of -log p_t(z_t) + w_u sum over the others

h: the encoder's output where stretches of its input are replaced by a learned vector. z: the units, batch["codes"], that an annotator
found (data.annotate; k-means of cepstra first, then of a layer of the model itself). Codes that are denser than positions are taken
where a position begins.

A: (E, D)   e: (C, E)   Cost: 2 E (D + C) per position.   DEPARTS: the published code also penalizes the stem's values; the paper does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.axes import label
from ..core.errors import UserError
from ..core.parts import Fraction, NonNegative, Positive, Spec, part
from ..nn.dropout import Dropout
from ..nn.objectives import inside
from ._masking import Hidden, places, stretches, unit


class Units(nn.Module):
    """e: a vector for every unit, (C, E)."""

    def __init__(self, clusters: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(clusters, width).uniform_())
        label(self, "weight", "classes", "units", role="head")

    def initial(self, name: str, generator: torch.Generator) -> Tensor:
        """Uniform from 0 to 1, as published."""
        return torch.empty(self.weight.shape).uniform_(generator=generator)


@part
class HuBERT(nn.Module):
    """clusters: C. share, span: of what is masked, and how long a stretch is. temperature: of the cosines. masked, unmasked: w_m, w_u.
    units: E. dropout: on what A reads."""

    reads = ("codes",)
    causal, couples_batch = False, False

    def __init__(
        self,
        width: int,
        linear: Spec,
        embedding: Any = None,
        *,
        clusters: Positive[int],
        share: Fraction = 0.8,
        span: Positive[int] = 10,
        temperature: Positive[float] = 0.1,
        masked: NonNegative[float] = 1.0,
        unmasked: NonNegative[float] = 0.0,
        units: Positive[int] = 256,
        dropout: Fraction = 0.0,
    ):
        super().__init__()
        self.clusters, self.share, self.span, self.temperature = clusters, share, span, temperature
        self.masked, self.unmasked, self.embedding = masked, unmasked, embedding
        self.hidden, self.dropout = Hidden(width), Dropout(dropout)
        self.head = linear.build(inputs=width, outputs=units, bias=True, axes=("units", "width"), role="matrix")
        self.units = Units(clusters, units)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        run = context.get("run")
        if not knobs["masked"] and not knobs["unmasked"]:
            yield "masked and unmasked are both 0: nothing would be learned"
        current = None
        for index, stage in enumerate(getattr(run, "stages", ())):
            current = stage.annotate or current
            _, chosen = run.objective_at(index)  # type: ignore[union-attr]
            if not any(one.knobs is knobs for one in inside(chosen)):
                continue
            if current is None:
                yield f"needs units to predict: set stages.{index}.annotate, such as kmeans"
            elif current.knobs.get("clusters") not in (None, knobs["clusters"]):
                yield f"predicts {knobs['clusters']} units, but stage {index} is annotated with {current.knobs['clusters']}; give both the same clusters"

    @property
    def weights(self) -> dict[str, float]:
        """Of the losses by name."""
        return {"masked": self.masked, "unmasked": self.unmasked}

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds masked (B, T), targets (B, T) of the positions that are scored, else -100, and units of both losses."""
        if "codes" not in batch:
            raise UserError("hubert needs rows with codes, which an annotator finds: set stages.0.annotate")
        T, length_B = places(self.embedding, batch)
        masked_BT = stretches(batch, T, length_B, self.share, self.span, 1, "hubert")
        codes_BC, value = batch["codes"], batch[self.embedding.reads[0]]
        place_T = torch.arange(T, device=masked_BT.device)
        index_T = (place_T * int(getattr(self.embedding, "stride", 1)) * codes_BC.shape[1] // value.shape[1]).clamp(
            max=codes_BC.shape[1] - 1
        )
        found_BT = torch.where(place_T < length_B[:, None], codes_BC[:, index_T], -100)
        if self.weights["masked"] and self.weights["unmasked"]:
            scored_BT = found_BT >= 0
        else:
            scored_BT = (found_BT >= 0) & (masked_BT if self.weights["masked"] else ~masked_BT)
        units = {
            "units": scored_BT.sum(dim=1),
            "units/masked": (scored_BT & masked_BT).sum(dim=1),
            "units/unmasked": (scored_BT & ~masked_BT).sum(dim=1),
        }
        return batch | {"masked": masked_BT, "targets": torch.where(scored_BT, found_BT, -100)} | units

    def scored(self, h: Tensor) -> Tensor:
        """(..., D) -> (..., C) log p, in fp32 at least."""
        cosines: Tensor = unit(self.head(h)) @ unit(self.units.weight).mT
        return (cosines / self.temperature).log_softmax(dim=-1)

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.weights[name] * loss for name, loss in self.losses(model, batch).items()}

    def measured(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[str, Tensor, Tensor]:
        """The first loss before its weight."""
        name, loss = next(iter(self.losses(model, batch).items()))
        return name, loss, batch[f"units/{name}"]

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those that count, without weights."""
        h_BTD, context = model.encoded(batch, causal=False, hide=self.hidden.weight)  # type: ignore[operator]
        targets_BT, masked_BT = batch["targets"], batch["masked"]
        log_BTC = self.scored(self.dropout(h_BTD, context))
        loss_BT = -log_BTC.gather(2, targets_BT.clamp(min=0)[..., None])[..., 0] * (targets_BT >= 0)
        where = {"masked": masked_BT, "unmasked": ~masked_BT}
        return {name: (loss_BT * where[name]).sum(dim=1) for name, weight in self.weights.items() if weight}

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per row: share of the scored positions whose likeliest unit is right."""
        best_BT = self.scored(model.encode(batch, causal=False, hide=self.hidden.weight)).argmax(dim=-1)  # type: ignore[operator]
        return {"accuracy": ((best_BT == batch["targets"]) & (batch["targets"] >= 0)).sum(dim=1).double() / batch["units"].clamp(min=1)}
