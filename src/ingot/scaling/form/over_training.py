r"""Loss of over-trained models from compute and tokens per parameter.   Gadre et al. 2024, arXiv:2403.08540, Eq. 4.

    L(C, M) = E + (a M^eta + b M^-eta) C^-eta          C = 6 N D,  M = D / N

The floor and the exponent do not depend on M: over-training moves a line in log-log, it does not turn it. Equal to Chinchilla's form
with alpha = beta = 2 eta.

Small models at few tokens per parameter can spend most of a run in warm-up. With a column warmup_tokens, D is what the same area under a
schedule without warm-up would take: D (1 - w/2) for w = warm-up / D < 1, else D / (2 w). (Not in the paper; it leaves w = 0 as it is.)

Inputs: params N, tokens D, optionally warmup_tokens.   Output: loss, nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, PowerSum, amplitude, grid


@part
class OverTraining(PowerSum):
    inputs = ("params", "tokens")
    coefficients = (Coefficient("E", 1e-3, log=True), Coefficient("a", log=True), Coefficient("b", log=True), Coefficient("eta", 0.01, 1.5))

    def __init__(self, table: Columns | None = None) -> None:
        """table is not needed."""

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        tokens = np.asarray(table["tokens"], float)
        if "warmup_tokens" in table:
            share = np.asarray(table["warmup_tokens"], float) / tokens
            tokens = tokens * np.where(share < 1, 1 - share / 2, 0.5 / np.maximum(share, 1))
        size, data = np.log(table["params"]), np.log(tokens)
        compute, ratio = np.log(6) + size + data, data - size
        return {"size": ratio - compute, "data": -ratio - compute}

    def terms(self, x: Mapping[str, Any]) -> list[dict[int, Any]]:
        return [{0: 1}, {1: 1, 3: x["size"]}, {2: 1, 3: x["data"]}]

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        share, split, eta = grid((0.1, 0.3, 0.5, 0.7, 0.9), (0.1, 0.3, 0.5, 0.7, 0.9), (0.05, 0.1, 0.15, 0.25, 0.4, 0.7)).T
        level = float(np.median(y_n))
        a = amplitude((1 - share) * split, level, eta, -x["size"])
        b = amplitude((1 - share) * (1 - split), level, eta, -x["data"])
        return np.stack([np.log(share) + level, a, b, eta], 1)
