r"""Best learning rate and batch size from model size and data.   Li et al. 2025 (Step Law), arXiv:2503.04715, Eq. 1.

    lr*(N, D) = c N^a D^b          B*(D) = d D^e          (published: c 1.79, a -0.713, b 0.307; d 0.58, e 0.571 tokens)

fitted through a bowl around the optimum of every pair (N, D), each with its own lowest loss l:

    log L = log l + u x^2 + v y^2 + 2 w sqrt(u v) x y          x = ln(lr / lr*),  y = ln(B / B*),  |w| < 1

Losses further than `within` above a pair's best are left out: there the bowl is no bowl.

Inputs: params N (without embeddings), tokens D, lr, batch (tokens).   Output: loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.parts import Positive, part
from ._base import Coefficient, Columns, Form, grid


@part
class BatchAndRate(Form):
    inputs = ("params", "tokens", "lr", "batch")
    curvature = ("u", "v", "w")

    def __init__(self, table: Columns, *, within: Positive[float] = 0.02) -> None:
        self.within = within
        self.pairs = sorted(set(zip(np.asarray(table["params"], float).tolist(), np.asarray(table["tokens"], float).tolist())))
        self.coefficients = (
            Coefficient("c", log=True),
            Coefficient("a", -3, 3),
            Coefficient("b", -3, 3),
            Coefficient("d", log=True),
            Coefficient("e", -3, 3),
            Coefficient("u", 1e-7, 10, log=True),
            Coefficient("v", 1e-7, 10, log=True),
            Coefficient("w", -0.99, 0.99),
            *(Coefficient(f"l_{index}", log=True) for index in range(1, 1 + len(self.pairs))),
        )

    def rows(self, table: Columns) -> np.ndarray:
        """(n,) bool: which rows are near enough to their pair's best."""
        loss, pair = np.asarray(table["loss"], float), self._pair(table)
        keep = np.zeros(len(loss), bool)
        for index in np.unique(pair):
            keep |= (pair == index) & (loss <= np.nanmin(loss[pair == index]) * (1 + self.within))
        return keep

    def _pair(self, table: Columns) -> np.ndarray:
        at = {pair: index for index, pair in enumerate(self.pairs)}
        return np.array(
            [at.get(pair, 0) for pair in zip(np.asarray(table["params"], float).tolist(), np.asarray(table["tokens"], float).tolist())],
            dtype=int,
        )

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        logs = {name: np.log(np.asarray(table[name], float)) for name in self.inputs}
        member = np.eye(len(self.pairs))[self._pair(table)].T
        return logs | {"member": member}

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        c, a, b, d, e, u, v, w = (theta_KP[:, index, None] for index in range(8))
        x_Kn = x["lr"] - c - a * x["params"] - b * x["tokens"]
        y_Kn = x["batch"] - d - e * x["tokens"]
        u, v = np.exp(u), np.exp(v)
        return theta_KP[:, 8:] @ x["member"] + u * x_Kn**2 + v * y_Kn**2 + 2 * w * np.sqrt(u * v) * x_Kn * y_Kn

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        """Powers by least squares through each pair's best point, then several bowls."""
        best = np.array([np.flatnonzero(m)[np.argmin(y_n[m > 0])] for m in x["member"] if m.any()])
        floor = np.array([y_n[m > 0].min() if m.any() else y_n.min() for m in x["member"]])
        N, D, one = x["params"][best], x["tokens"][best], np.ones(len(best))
        by_rate = np.linalg.lstsq(np.stack([one, N, D], 1), x["lr"][best], rcond=1e-9)[0]
        by_batch = np.linalg.lstsq(np.stack([one, D], 1), x["batch"][best], rcond=1e-9)[0]
        return np.array(
            [[*by_rate, *by_batch, np.log(u), np.log(v), w, *floor] for u, v, w in grid((1e-3, 1e-2), (1e-3, 1e-2), (-0.5, 0.0))]
        )

    def optimum(self, theta_KP: np.ndarray, params: float, tokens: float) -> tuple[np.ndarray, np.ndarray]:
        """(K,) best learning rates and (K,) best batches in tokens."""
        c, a, b, d, e = theta_KP[:, :5].T
        return np.exp(c + a * np.log(params) + b * np.log(tokens)), np.exp(d + e * np.log(tokens))
