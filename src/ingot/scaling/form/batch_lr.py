r"""Best learning rate and batch size from model size and data.   Li et al. 2025 (Step Law), arXiv:2503.04715, Eq. 1.

    lr*(N, D) = c N^a D^b          B*(D) = d D^e          (published: c 1.79, a -0.713, b 0.307; d 0.58, e 0.571 tokens)

fitted through a bowl around the optimum of every pair (N, D), each with its own lowest loss l:

    log L = log l + u x^2 + v y^2 + 2 w sqrt(u v) x y          x = ln(lr / lr*),  y = ln(B / B*),  |w| < 1

Losses further than `within` above a pair's best are left out: there the bowl is no bowl. The back-test is of what the law is asked for: by
what factor the best learning rate and batch of a larger pair miss the vertex of that pair's own bowl (pairs whose vertex lies outside what
was tried, or whose runs show none, are passed over).

Inputs: params N (without embeddings), tokens D, lr, batch (tokens).   Output: loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.parts import Positive, part
from ._base import Coefficient, Columns, Form, grid


@part
class BatchAndRate(Form):
    inputs = ("params", "tokens", "lr", "batch")
    chooses = ("lr", "batch")

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
        pairs = list(zip(np.asarray(table["params"], float).tolist(), np.asarray(table["tokens"], float).tolist()))
        if unknown := [pair for pair in pairs if pair not in at]:
            raise UserError(
                f"every pair of params and tokens has its own lowest loss, and that of {unknown[0][0]:g}, {unknown[0][1]:g} was not fitted; "
                "batch_lr tells the best learning rate and batch of other pairs, not their loss"
            )
        return np.array([at[pair] for pair in pairs], dtype=int)

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

    def chosen(
        self, theta_P: np.ndarray, x: Mapping[str, Any], y_n: np.ndarray, held_n: np.ndarray, reach_m: np.ndarray
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By what factor, less 1, the choices for held-out pairs miss the vertices of their own bowls."""
        reach_n = np.full(len(y_n), np.nan)
        reach_n[held_n] = reach_m
        found: list[tuple[float, float, float]] = []
        for pair_n in x["member"] > 0:
            rows = np.flatnonzero(pair_n & held_n)
            if len(rows) and (vertex := _vertex(x["lr"][rows], x["batch"][rows], y_n[rows])) is not None:
                N, D = np.exp(x["params"][rows[0]]), np.exp(x["tokens"][rows[0]])
                lr_K, batch_K = self.optimum(theta_P[None], float(N), float(D))
                found.append((reach_n[rows[0]], float(np.log(lr_K[0])) - vertex[0], float(np.log(batch_K[0])) - vertex[1]))
        reach, lr, batch = np.array(found).reshape(-1, 3).T
        return {"lr": (reach, np.expm1(lr)), "batch": (reach, np.expm1(batch))}

    def optimum(self, theta_KP: np.ndarray, params: float, tokens: float) -> tuple[np.ndarray, np.ndarray]:
        """(K,) best learning rates and (K,) best batches in tokens."""
        c, a, b, d, e = theta_KP[:, :5].T
        return np.exp(c + a * np.log(params) + b * np.log(tokens)), np.exp(d + e * np.log(tokens))


def _vertex(log_lr_m: np.ndarray, log_batch_m: np.ndarray, y_m: np.ndarray) -> tuple[float, float] | None:
    """Lowest point of a quadratic through one pair's log losses; None where it bends the wrong way or lies outside what was tried."""
    if len(y_m) < 8:
        return None
    p, q = log_lr_m.mean(), log_batch_m.mean()
    a, b = log_lr_m - p, log_batch_m - q
    _, s, t, u, v, w = np.linalg.lstsq(np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], 1), y_m, rcond=1e-9)[0]
    bend = np.array([[2 * u, w], [w, 2 * v]])
    if np.linalg.eigvalsh(bend)[0] <= 0:
        return None
    lr, batch = np.array([p, q]) - np.linalg.solve(bend, [s, t])
    inside = log_lr_m.min() <= lr <= log_lr_m.max() and log_batch_m.min() <= batch <= log_batch_m.max()
    return (float(lr), float(batch)) if inside else None
