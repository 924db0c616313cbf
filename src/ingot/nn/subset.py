"""A random part of every row's positions, in their order: a function of (seed, row, what for), as dropout is."""

from __future__ import annotations

from torch import Tensor

from ..ops.random import hash_uniform


def draw(length: int, count: int, rows_B: Tensor, key: Tensor, salt: Tensor) -> Tensor:
    """(B, count) int64, rising: which of `length` positions; every subset of a row is as likely."""
    chosen_BK = hash_uniform(rows_B, length, key, salt).argsort(dim=1, stable=True)[:, :count]
    return chosen_BK.sort(dim=1).values
