"""The hidden size that a feed-forward has when the recipe names none."""

from __future__ import annotations


def fourfold(width: int, hidden: int | None) -> int:
    """hidden, or four times the width."""
    return hidden or 4 * width


def gated(width: int, hidden: int | None) -> int:
    """hidden, or 8/3 of the width rounded up to a multiple of 64, which costs what fourfold does without a gate."""
    return hidden or -(-8 * width // (3 * 64)) * 64
