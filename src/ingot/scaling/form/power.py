r"""A power law with a floor in one quantity.   Hestness et al. 2017, arXiv:1712.00409.

    L(x) = E + A x^-alpha

Input: the column named by `over` (params, tokens, flop, steps).   Output: loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, PowerSum, amplitude, grid


@part
class Power(PowerSum):
    coefficients = (Coefficient("E", 1e-6, log=True), Coefficient("A", log=True), Coefficient("alpha", 0.01, 3.0))

    def __init__(self, table: Columns | None = None, *, over: str = "tokens") -> None:
        self.inputs = (over,)

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        return {"log_x": np.log(table[self.inputs[0]])}

    def terms(self, x: Mapping[str, Any]) -> list[dict[int, Any]]:
        return [{0: 1}, {1: 1, 2: -x["log_x"]}]

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        share, alpha = grid((0.05, 0.3, 0.6, 0.8, 0.95), (0.05, 0.1, 0.2, 0.4, 0.7, 1.2)).T
        level = float(np.median(y_n))
        return np.stack([np.log(share) + level, amplitude(1 - share, level, alpha, x["log_x"]), alpha], 1)

    def scale(self, table: Columns) -> np.ndarray | None:
        return np.asarray(table[self.inputs[0]], dtype=float)
