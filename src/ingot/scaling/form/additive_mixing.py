r"""Loss on one validation domain from powers of the shares of the training domains.   Shukor et al. 2025 (additive law), arXiv:2507.09404.

    L(r) = E + 1 / sum_j w_j r_j^gamma_j            r_j: share of training domain j, sum_j r_j = 1

Size and data are held fixed here; the paper's terms A / N^alpha + B / D^beta are then part of E. Where the first small share of a domain
teaches most, its gamma is well below 1, which the exponentials of ``data_mixing`` cannot say: a loss of 2.8 without any share of code and
mathematics, 1.72 with a sixteenth, 1.63 with an eighth and 1.56 with a quarter is a power, not an exponential.

``exponents: shared`` fits one gamma for all domains (not in the paper): fewer coefficients, for when there are few runs. Which of the two,
and whether this law or ``data_mixing`` suits a validation domain, is told by the back-test (``ingot.scaling.compare``).

Inputs: every column that starts with ``mix_``.   Output: loss on the validation domain. Fit each validation domain by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from scipy.optimize import nnls

from ...core.parts import part
from ._base import Coefficient, Columns, Form, grid
from ._shares import share_columns, shares

NONE = -1e4
"""Logarithm of a share of nothing: finite, and any power of it is nothing."""


@part
class AdditiveMixing(Form):
    mixture = True

    def __init__(self, table: Columns, *, columns: list[str] | None = None, exponents: Literal["each", "shared"] = "each") -> None:
        """columns: the shares, where they are not the columns that start with ``mix_``. exponents: one for each domain, or one for all."""
        self.inputs = share_columns(table, columns, "additive_mixing")
        names = [name.removeprefix("mix_") for name in self.inputs]
        weights = [Coefficient(f"w_{name}", 1e-6, 1e6, log=True) for name in names]
        powers = [Coefficient("gamma", 0.02, 3.0)] if exponents == "shared" else [Coefficient(f"gamma_{name}", 0.02, 3.0) for name in names]
        self.coefficients = (Coefficient("E", 1e-3, log=True), *weights, *powers)

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        share_Jn = np.stack(list(shares(table, self.inputs).values()))
        return {"log_share": np.where(share_Jn > 0, np.log(np.maximum(share_Jn, 1e-300)), NONE)}

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        found: np.ndarray = np.log(np.exp(theta_KP[:, :1]) + 1 / self._terms(theta_KP, x).sum(1))
        return found

    def gradient(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        floor_K1, term_KJn = np.exp(theta_KP[:, :1]), self._terms(theta_KP, x)
        total_Kn = term_KJn.sum(1)
        loss_Kn = floor_K1 + 1 / total_Kn
        by_weight_KJn = -term_KJn / (total_Kn**2 * loss_Kn)[:, None]
        by_power_KJn = by_weight_KJn * x["log_share"]
        if theta_KP.shape[1] == 2 + len(self.inputs):
            by_power_KJn = by_power_KJn.sum(1, keepdims=True)
        return np.log(loss_Kn), np.concatenate([(floor_K1 / loss_Kn)[:, None], by_weight_KJn, by_power_KJn], 1)

    def _terms(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        """(K, J, n) w_j r_j^gamma_j; one exponent broadcasts over the domains."""
        count = 1 + len(self.inputs)
        found: np.ndarray = np.exp(theta_KP[:, 1:count, None] + theta_KP[:, count:, None] * x["log_share"])
        return found

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        low, number, found = float(y_n.min()), len(self.inputs), []
        for share, gamma in grid((0.3, 0.6, 0.8, 0.92), (0.1, 0.3, 0.7)):
            weights = nnls(np.exp(gamma * x["log_share"]).T, 1 / (np.exp(y_n) - share * np.exp(low)))[0]
            found.append([np.log(share) + low, *np.log(np.maximum(weights, 1e-3)), *([gamma] * (len(self.coefficients) - 1 - number))])
        return np.array(found)

    def scale(self, table: Columns) -> np.ndarray | None:
        return None
