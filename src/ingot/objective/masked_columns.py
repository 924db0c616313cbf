r"""Hidden cells of a table, told from the rest of the row.   VIME, Yoon et al. 2020 (NeurIPS 33); Rubachev et al. 2022, arXiv:2207.03208.

    numbers      loss = sum over hidden numeric cells of (v_j . h_j + c_j - number_j)^2
    categories   loss = -sum over hidden categorical cells of log softmax over V values of (U_j h_j + e_j)

Each is divided by its own cells. Of every row the share ``rate`` of the cells that hold something is hidden, at least one; a cell that is
missing is never asked for. A learned vector stands where a cell is hidden; which column it is stays known.

v: (K, D)  U: (J V, D), V: the most values that a column has, the missing one included   Cost: 2 J V D per row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.parts import Fraction, NonNegative, part
from ..nn.vector import Vector
from ..ops.random import hash_uniform, salt_of
from ._pooled import RowHead


@part
class MaskedColumns(nn.Module):
    """rate: share that is hidden of a row's cells that hold something. numeric_weight, categorical_weight: factors on the two losses."""

    causal, couples_batch = False, False

    def __init__(
        self,
        width: int,
        embedding: Any,
        *,
        rate: Fraction = 0.3,
        numeric_weight: NonNegative[float] = 1.0,
        categorical_weight: NonNegative[float] = 1.0,
    ):
        super().__init__()
        self.embedding, self.output_scale = embedding, 1.0
        self.rate, self.numeric_weight, self.categorical_weight = rate, numeric_weight, categorical_weight
        self.K, self.J, self.V = embedding.numbers, embedding.categories, embedding.widest
        self.mask = Vector(width)
        self.number = RowHead(width, self.K, "columns") if self.K else None
        self.category = RowHead(width, self.J * self.V, "vocabulary") if self.J else None
        self.salt = salt_of("masked columns")

    @property
    def weights(self) -> dict[str, float]:
        """Of the losses by name."""
        return {"numbers": self.numeric_weight, "categories": self.categorical_weight}

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds masked (B, K + J), units: hidden cells, and those of each kind."""
        there_BT = self.embedding.present(batch)
        drawn_BT = hash_uniform(batch["rows"], self.K + self.J, batch["key"], torch.tensor(self.salt, device=batch["rows"].device))
        rank_BT = (drawn_BT + (~there_BT).float()).argsort(dim=1, stable=True).argsort(dim=1)
        count_B = (there_BT.sum(dim=1).double() * self.rate).round().clamp(min=1)
        masked_BT = (rank_BT < count_B[:, None]) & there_BT & (batch["rows"] >= 0)[:, None]
        numbers, categories = masked_BT[:, : self.K].sum(dim=1), masked_BT[:, self.K :].sum(dim=1)
        return batch | {"masked": masked_BT, "units": numbers + categories, "units/numbers": numbers, "units/categories": categories}

    def predictions(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """(B, K) numbers and (B, J, V) scores of values, in fp32 at least."""
        h_BTD = model.encode(batch, causal=False, hide=self.mask.weight)[:, int(self.embedding.leading) :] * self.output_scale
        wide, numbers, scores = torch.promote_types(h_BTD.dtype, torch.float32), None, None
        if self.number is not None:
            numbers = (h_BTD[:, : self.K] * self.number.weight.to(h_BTD.dtype)).sum(dim=2).to(wide) + self.number.bias.to(wide)
        if self.category is not None:
            weight_JVD = self.category.weight.to(h_BTD.dtype).view(self.J, self.V, -1)
            scores = torch.einsum("bjd,jvd->bjv", h_BTD[:, self.K :], weight_JVD).to(wide) + self.category.bias.to(wide).view(
                self.J, self.V
            )
        return numbers, scores

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.weights[name] * loss for name, loss in self.losses(model, batch).items()}

    def measured(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[str, Tensor, Tensor]:
        """The first loss that counts, before its weight."""
        losses = self.losses(model, batch)
        name = next((name for name in losses if self.weights[name]), next(iter(losses)))
        return name, losses[name], batch[f"units/{name}"]

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without weights."""
        numbers_BK, scores_BJV = self.predictions(model, batch)
        masked_BT, losses = batch["masked"], {}
        if numbers_BK is not None:
            squared = (numbers_BK - batch["numbers"].to(numbers_BK.dtype)) ** 2
            losses["numbers"] = (squared * masked_BT[:, : self.K]).sum(dim=1)
        if scores_BJV is not None:
            nll = F.cross_entropy(scores_BJV.mT, batch["categories"], reduction="none")
            losses["categories"] = (nll * masked_BT[:, self.K :]).sum(dim=1)
        return losses

    def scores(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """For evaluation, sums by row and hidden cells of the kind: squared errors of numbers, categories that are right."""
        numbers_BK, scores_BJV = self.predictions(model, batch)
        masked_BT, found = batch["masked"], {}
        if numbers_BK is not None:
            squared = ((numbers_BK - batch["numbers"]).double() ** 2) * masked_BT[:, : self.K]
            found["numbers_mse"] = (squared.sum(dim=1), batch["units/numbers"])
        if scores_BJV is not None:
            right = (scores_BJV.argmax(dim=2) == batch["categories"]) & masked_BT[:, self.K :]
            found["categories_accuracy"] = (right.sum(dim=1), batch["units/categories"])
        return found
