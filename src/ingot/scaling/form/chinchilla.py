r"""Loss from model size and data.   Hoffmann et al. 2022, arXiv:2203.15556, Eq. 2 (approach 3); refit: Besiroglu et al. 2024, arXiv:2404.10102.

    L(N, D) = E + A N^-alpha + B D^-beta

fitted by a Huber loss on log L with delta 1e-3. Compute-optimal at C = 6 N D: N = G (C/6)^(beta / (alpha + beta)), D = C / (6 N),
G = (alpha A / (beta B))^(1 / (alpha + beta)) (their Eq. 4). Their approaches 1 (envelope) and 2 (IsoFLOP parabolas) give the same
exponents without this form: ``ingot.scaling.frontier``.

Inputs: params N, tokens D.   Output: loss, nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, PowerSum, amplitude, grid


@part
class Chinchilla(PowerSum):
    inputs = ("params", "tokens")
    delta = 1e-3
    coefficients = (
        Coefficient("E", 1e-3, log=True),
        Coefficient("A", log=True),
        Coefficient("B", log=True),
        Coefficient("alpha", 0.01, 2.5),
        Coefficient("beta", 0.01, 2.5),
    )

    def __init__(self, table: Columns | None = None) -> None:
        """table is not needed."""

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        return {"log_params": np.log(table["params"]), "log_tokens": np.log(table["tokens"])}

    def terms(self, x: Mapping[str, Any]) -> list[dict[int, Any]]:
        return [{0: 1}, {1: 1, 3: -x["log_params"]}, {2: 1, 4: -x["log_tokens"]}]

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        share, split, alpha, beta = grid((0.2, 0.5, 0.7, 0.9), (0.2, 0.5, 0.8), (0.1, 0.3, 0.5, 0.8, 1.2), (0.1, 0.3, 0.5, 0.8, 1.2)).T
        level = float(np.median(y_n))
        A = amplitude((1 - share) * split, level, alpha, x["log_params"])
        B = amplitude((1 - share) * (1 - split), level, beta, x["log_tokens"])
        return np.stack([np.log(share) + level, A, B, alpha, beta], 1)
