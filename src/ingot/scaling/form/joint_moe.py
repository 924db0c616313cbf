r"""Loss of dense and routed models from active size, data and experts.   Ludziejewski et al. 2025, arXiv:2502.05172, Eq. 6.

    L(N, D, E) = a E_hat^delta N^(alpha + gamma ln E_hat) + b E_hat^omega D^(beta + zeta ln E_hat) + c

E_hat as in Clark et al. 2022 (part `moe`). Exponents alpha, beta are negative here, as in the paper. N and D count from the data's middle
(geometric means n0, d0 = `center`), which leaves the law as it is and keeps its coefficients apart.

Inputs: params N (active per token), tokens D, experts E.   Output: loss, nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ._base import Coefficient, Columns, PowerSum, grid
from ._experts import saturated


@part
class JointMoE(PowerSum):
    inputs = ("params", "tokens", "experts")
    coefficients = (
        Coefficient("c", 1e-3, log=True),
        Coefficient("a", log=True),
        Coefficient("b", log=True),
        Coefficient("alpha", -2.0, -0.01),
        Coefficient("beta", -2.0, -0.01),
        Coefficient("delta", -3, 3),
        Coefficient("omega", -3, 3),
        Coefficient("gamma", -0.5, 0.5),
        Coefficient("zeta", -0.5, 0.5),
    )

    def __init__(
        self, table: Columns | None = None, *, start: float = 1.847, most: float = 314.478, center: tuple[float, float] = (1e8, 1e10)
    ) -> None:
        """start, most: E_start and E_max of E_hat, as Clark et al. found them. center: unit of N and of D. table is not needed."""
        self.start, self.most, self.center = start, most, center

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        log_E = np.log(saturated(np.asarray(table["experts"], float), self.start, self.most))
        return {
            "N": np.log(np.asarray(table["params"], float) / self.center[0]),
            "D": np.log(np.asarray(table["tokens"], float) / self.center[1]),
            "E": log_E,
        }

    def terms(self, x: Mapping[str, Any]) -> list[dict[int, Any]]:
        return [{0: 1}, {1: 1, 3: x["N"], 5: x["E"], 7: x["N"] * x["E"]}, {2: 1, 4: x["D"], 6: x["E"], 8: x["D"] * x["E"]}]

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        share, split, alpha, beta = grid((0.3, 0.5, 0.7, 0.85), (0.3, 0.5, 0.7), (-0.15, -0.35, -0.6), (-0.15, -0.35, -0.6)).T
        level, none = float(np.median(y_n)), np.zeros_like(share)
        a = np.log((1 - share) * split) + level - alpha * x["N"].mean()
        b = np.log((1 - share) * (1 - split)) + level - beta * x["D"].mean()
        return np.stack([np.log(share) + level, a, b, alpha, beta, none - 0.1, none, none, none], 1)
