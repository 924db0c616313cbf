"""Where a moment lies between two points of the budget, and the ways to fall from 1 to 0 over such a stretch."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["linear", "sqrt", "cosine", "exponential"]


def between(fraction: float, start: float, end: float) -> float:
    """How far a share of the budget is from start to end: 0 before, 1 after; an empty stretch is passed at once."""
    return min(1.0, max(0.0, (fraction - start) / (end - start))) if end > start else float(fraction >= start)


def fall(x: float, shape: Shape) -> float:
    """From 1 at x = 0 to 0 at x = 1: 1 - x, 1 - sqrt(x), half a cosine, or a hundredfold exponential shifted to end at 0."""
    if shape == "sqrt":
        return 1 - math.sqrt(x)
    if shape == "cosine":
        return (1 + math.cos(math.pi * x)) / 2
    if shape == "exponential":
        return float((100.0**-x - 0.01) / 0.99)
    return 1 - x
