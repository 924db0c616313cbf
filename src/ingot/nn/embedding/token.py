r"""Token embedding, with what is often added to it.

x = dropout(norm(scale E[token] + P[position] + S[type]))        norm, P, S where the recipe asks for them

tokens_BT -> x_BTD   E: (V, D)   P: (positions, D)   S: (types, D)

With ``inner`` I these are of I features, and a projection W: (D, I) leads out (Lan et al. 2019, arXiv:1909.11942, section 3.1; ELECTRA).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import label
from ...core.errors import UserError
from ...core.parts import Fraction, NonNegative, Positive, Slot, part
from ..context import Context
from ..dropout import Dropout
from ..linear.dense import Dense
from ..objectives import objectives
from ._placed import refuse_turning


class Types(nn.Module):
    """A vector for each kind of segment (BERT's sentence A and B)."""

    def __init__(self, types: int, width: int, axis: str = "width"):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(types, width))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "types", axis, role="position")


@part
class Token(nn.Module):
    """position: added positions. norm: on the sum. types: kinds of segments (batch key ``types``, 0 when absent); 0 for none.

    dropout: rate on the result. scale: factor on the tokens' vectors (Gemma: the square root of the width). inner: width of the tables
    where it is not the model's; heads that are tied to the table then need a transform.
    """

    reads: tuple[str, ...] = ("tokens",)
    leading = 0

    def __init__(
        self,
        width: int,
        vocabulary: int,
        sequence: int,
        *,
        position: Slot["nn.position"] | None = None,
        norm: Slot["nn.norm"] | None = None,
        types: NonNegative[int] = 0,
        dropout: Fraction = 0.0,
        scale: Positive[float] = 1.0,
        inner: Positive[int] | None = None,
    ):
        super().__init__()
        if vocabulary is None:
            raise UserError("an embedding of tokens needs a tokenizer: set data.tokenizer, or model.vocabulary")
        self.width, self.vocabulary, self.scale, self.inner = width, vocabulary, scale, inner
        size, axis = (width, "width") if inner is None else (inner, "inner")
        self.weight = nn.Parameter(torch.empty(vocabulary, size))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "vocabulary", axis, role="embedding")
        self.position = position.build(width=size, sequence=sequence) if position else None
        if inner is not None and getattr(self.position, "weight", None) is not None:
            label(self.position, "weight", "positions", axis, role="position")  # type: ignore[arg-type]
        self.segment = Types(types, size, axis) if types else None
        self.norm = norm.build(width=size, axis=axis) if norm else None
        self.dropout = Dropout(dropout)
        self.project: nn.Module | None = None
        if inner is not None:
            self.project = Dense(inputs=inner, outputs=width, bias=True, axes=("width", axis), role="embedding")

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from refuse_turning(knobs["position"])
        for objective in objectives(context) if knobs.get("inner") is not None else []:
            if objective.knobs.get("tied") and objective.knobs.get("transform") is None:
                yield f"inner makes the table narrower than the model, which the tied head of {objective.name!r} reads; set objective.tied to false"
            if objective.knobs.get("generator") is not None:
                yield f"the generator of {objective.name!r} reads what the model does and is scored by its table; it needs inner: null"

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(T,)."""
        return (batch["tokens"].shape[1],)

    def lengths(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Positions that are not padding."""
        return (batch["segments"] > 0).sum(dim=1) if "segments" in batch else None

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        """The values are batch["inputs"] where an objective made them, else batch["tokens"]."""
        ids = batch.get("inputs", batch.get("tokens"))
        assert ids is not None
        context.place(batch, ids)
        context.ids_BT = ids
        assert context.positions_BT is not None
        x_BTD = F.embedding(ids, self.weight)
        if self.scale != 1.0:
            x_BTD = x_BTD * self.scale
        x_BTD = context.hide(x_BTD)
        if self.position is not None:
            x_BTD = x_BTD + self.position(context.positions_BT)
        if self.segment is not None:
            types = batch.get("types")
            x_BTD = x_BTD + (self.segment.weight[0] if types is None else F.embedding(types, self.segment.weight))
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        x_BTD = self.dropout(x_BTD, context)
        return x_BTD if self.project is None else self.project(x_BTD)
