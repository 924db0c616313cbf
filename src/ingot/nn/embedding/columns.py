r"""Columns of a table, each a position.   Gorishniy et al. 2021 (FT-Transformer), arXiv:2106.11959, section 3.3.

    x_j = v_j + b_j        numeric: v_j = number_j W_j, or m_j where it is missing        categorical: v_j = E_(j, category_j)

numbers (B, K), categories (B, J) -> x_BTD, T = K + J, one more with a class token   W, m: (K, D)   E: (J V, D)   b: (K + J, D)

V: the most values that a column has, the missing one included. b tells columns apart, as positions tell places.   Cost: no matmul.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import label
from ...core.errors import UserError
from ...core.parts import Fraction, Positive, Slot, part
from ...core.seams import Field
from ..context import Context
from ..dropout import Dropout
from ..vector import Vector


class Weights(nn.Module):
    """weight (rows, width)."""

    def __init__(self, rows: int, width: int, axis: str):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", axis, "width", role="embedding")


@part
class Columns(nn.Module):
    """numbers, categories, widest: K, J and V, those of the data when not given. class_token: put a learned vector in front. norm,
    dropout: on the result."""

    reads: tuple[str, ...] = ("numbers", "numbers_missing", "categories")

    def __init__(
        self,
        width: int,
        fields: Mapping[str, Field] | None = None,
        *,
        numbers: int | None = None,
        categories: int | None = None,
        widest: Positive[int] | None = None,
        class_token: bool = True,
        norm: Slot["nn.norm"] | None = None,
        dropout: Fraction = 0.0,
    ):
        super().__init__()
        known = fields or {}
        self.numbers = numbers if numbers is not None else (known["numbers"].shape[0] if "numbers" in known else 0)
        self.categories = categories if categories is not None else (known["categories"].shape[0] if "categories" in known else 0)
        self.widest = widest or (known["categories"].values if "categories" in known else None) or 1
        if not self.numbers + self.categories:
            raise UserError("embedding: the data gives no columns; name numeric or categorical ones in data.train")
        self.reads = (("numbers", "numbers_missing") if self.numbers else ()) + (("categories",) if self.categories else ())
        self.width, self.leading = width, int(class_token)
        self.size = (self.numbers + self.categories,)
        self.longest = self.leading + self.size[0]
        self.number = Weights(self.numbers, width, "columns") if self.numbers else None
        self.missing = Weights(self.numbers, width, "columns") if self.numbers else None
        self.category = Weights(self.categories * self.widest, width, "vocabulary") if self.categories else None
        self.column = Weights(self.size[0], width, "columns")
        self.first = Vector(width) if class_token else None
        self.norm = norm.build(width=width) if norm else None
        self.dropout = Dropout(dropout)

    def settled(self) -> dict[str, Any]:
        """What the data decided."""
        return {"numbers": self.numbers, "categories": self.categories, "widest": self.widest}

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(columns,)."""
        return self.size

    def present(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, K + J) bool: which cells hold something."""
        pieces = []
        if self.numbers:
            pieces.append(~batch["numbers_missing"])
        if self.categories:
            pieces.append(batch["categories"] > 0)
        return torch.cat(pieces, dim=1)

    def values(self, batch: dict[str, Tensor]) -> Tensor:
        """v of every column, (B, K + J, D)."""
        pieces = []
        if self.number is not None and self.missing is not None:
            v = batch["numbers"].to(self.number.weight.dtype)[..., None] * self.number.weight
            pieces.append(torch.where(batch["numbers_missing"][..., None], self.missing.weight, v))
        if self.category is not None:
            place = torch.arange(self.categories, device=batch["categories"].device) * self.widest
            pieces.append(F.embedding(batch["categories"] + place, self.category.weight))
        return torch.cat(pieces, dim=1)

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        x_BTD = context.hide(self.values(batch)) + self.column.weight
        if self.first is not None:
            x_BTD = torch.cat([self.first.weight.expand(len(x_BTD), 1, -1), x_BTD], dim=1)
        context.settle(x_BTD)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return self.dropout(x_BTD, context)

    def extra_repr(self) -> str:
        return f"numbers={self.numbers}, categories={self.categories}, widest={self.widest}"
