"""What embeddings share that add positions to vectors."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from torch import Tensor

from ...core.parts import Spec
from ..context import Context


def placed(embedding: Any, x_BTD: Tensor, context: Context) -> Tensor:
    """dropout(norm(x + P)), with what the embedding has of these; positions count from 0 where none are set yet."""
    context.settle(x_BTD)
    if embedding.position is not None:
        x_BTD = x_BTD + embedding.position(context.positions_BT).to(x_BTD.dtype)
    if embedding.norm is not None:
        x_BTD = embedding.norm(x_BTD)
    found: Tensor = embedding.dropout(x_BTD, context)
    return found


def refuse_turning(position: Spec | None, instead: str = "set the mixer's position to it and embedding.position to null") -> Iterable[str]:
    """Why a position cannot be added to vectors."""
    if position is not None and not getattr(position.target, "additive", False):
        yield f"position {position.name!r} turns queries and keys; {instead}"


def positions_given(embedding: Any, batch: dict[str, Tensor]) -> Tensor | int:
    """How many positions that are not padding an embedding makes of each row, (B,), or of every row."""
    if hasattr(embedding, "lengths") and (lengths := embedding.lengths(batch)) is not None:
        found: Tensor = lengths
        return found
    return prod(embedding.grid(batch)) if hasattr(embedding, "grid") else 1
