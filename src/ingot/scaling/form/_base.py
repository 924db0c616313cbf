"""What every form of law offers to the fitter.

Shapes: K sets of coefficients at once, P coefficients, n observations. Coefficients are held on their fitting scale (``log`` ones as
logarithms), named theta; predictions are on the scale of the residuals: the logarithm of the loss, or the value itself (``linear``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ...core.errors import UserError

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Coefficient:
    """One number to be estimated. log: positive, fitted as its logarithm. low, high: bounds in natural units."""

    name: str
    low: float = -math.inf
    high: float = math.inf
    log: bool = False

    def inward(self, value: Any) -> Any:
        """Natural value to fitting scale."""
        return np.log(value) if self.log else value

    def outward(self, theta: Any) -> Any:
        """Fitting scale to natural value."""
        return np.exp(theta) if self.log else theta

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high) on the fitting scale."""
        if not self.log:
            return self.low, self.high
        return (math.log(self.low) if self.low > 0 else -math.inf), (math.log(self.high) if math.isfinite(self.high) else math.inf)


class Form:
    """A law. Subclasses set the class attributes and write predict and starts; the rest follows.

    inputs: columns read.  output: column fitted.  residual: "log" or "linear".  delta: Huber threshold as published, None: from the data.
    curve: rows are points of whole training curves, in order, and the law depends on all that went before.   mixture: inputs are shares.
    by_paper: coefficients come from `own`, the procedure of the law's paper, and not from the lowest objective, around which intervals are.
    span: smallest and largest value that the output can have.   chooses: names of what the law is asked to choose, see `chosen`.
    """

    inputs: Sequence[str] = ()
    output = "loss"
    residual = "log"
    delta: float | None = None
    curve = False
    mixture = False
    by_paper = False
    span: tuple[float, float] = (-math.inf, math.inf)
    chooses: Sequence[str] = ()
    coefficients: Sequence[Coefficient] = ()

    def prepare(self, table: Columns) -> dict[str, np.ndarray]:
        """Columns as predict wants them, computed once."""
        return {name: np.asarray(table[name], dtype=float) for name in self.inputs}

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        """(K, n) predictions on the residual scale. Must be analytic in theta, because gradients come from a complex step."""
        raise NotImplementedError

    def gradient(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(K, n) predictions and (K, P, n) derivatives, exact to rounding: Im f(theta + ih) / h (Squire & Trapp 1998)."""
        f_Kn = self.predict(theta_KP, x)
        gradient_KPn = np.empty((*theta_KP.shape, f_Kn.shape[1]))
        for index in range(theta_KP.shape[1]):
            shifted = theta_KP.astype(complex)
            shifted[:, index] += 1e-30j
            gradient_KPn[:, index] = self.predict(shifted, x).imag / 1e-30
        return f_Kn, gradient_KPn

    def starts(self, x: Mapping[str, Any], y_n: np.ndarray) -> np.ndarray:
        """(S, P) places from which to start; y on the residual scale."""
        raise NotImplementedError

    def own(self, x: Mapping[str, Any], y_n: np.ndarray, w_n: np.ndarray, delta: float) -> np.ndarray:
        """(P,) where the procedure of the law's paper ends. Must be deterministic."""
        raise NotImplementedError

    def chosen(
        self, theta_P: np.ndarray, x: Mapping[str, Any], y_n: np.ndarray, held_n: np.ndarray, reach_m: np.ndarray
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each of `chooses`, (reach, chosen / best - 1) of the settings among the held-out rows. reach_m: of those rows."""
        raise NotImplementedError

    def scale(self, table: Columns) -> np.ndarray | None:
        """What an extrapolation reaches along: training compute where the table tells it, else None."""
        if "flop" in table:
            return np.asarray(table["flop"], dtype=float)
        if "params" in table and "tokens" in table:
            return 6 * np.asarray(table["params"], dtype=float) * np.asarray(table["tokens"], dtype=float)
        return None

    def rows(self, table: Columns) -> np.ndarray:
        """(n,) bool: which rows the law is about."""
        return np.ones(len(np.asarray(table[self.output])), bool)

    @property
    def bounds(self) -> np.ndarray:
        """(P, 2) on the fitting scale."""
        return np.array([coefficient.bounds for coefficient in self.coefficients])

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """Coefficients in natural units; the last axis is P."""
        logs = np.array([coefficient.log for coefficient in self.coefficients])
        return np.where(logs, np.exp(np.where(logs, theta, 0.0)), theta)

    def theta(self, values: Mapping[str, float]) -> np.ndarray:
        """(P,) on the fitting scale from natural values by name. Raises UserError when one is missing."""
        if missing := [c.name for c in self.coefficients if c.name not in values]:
            raise UserError(f"no value for {', '.join(missing)}")
        return np.array([float(c.inward(values[c.name])) for c in self.coefficients])

    def index(self, name: str) -> int:
        """Position of a coefficient. Raises UserError for an unknown one."""
        names = [coefficient.name for coefficient in self.coefficients]
        if name not in names:
            raise UserError(f"no coefficient {name!r}; there are {', '.join(names)}")
        return names.index(name)


class PowerSum(Form):
    """L = sum over terms j of exp(sum_p theta_p phi_jp(x)): power laws whose derivatives are shares of the sum.

    terms(x) lists, for each term, {coefficient index: phi as (n,) or a number}.
    """

    def terms(self, x: Mapping[str, Any]) -> list[dict[int, Any]]:
        raise NotImplementedError

    def _exponentials(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> list[np.ndarray]:
        size = len(next(iter(x.values())))
        found = []
        for term in self.terms(x):
            z_Kn = np.zeros((len(theta_KP), size), dtype=theta_KP.dtype)
            for index, phi in term.items():
                z_Kn += theta_KP[:, index, None] * phi
            found.append(np.exp(np.minimum(z_Kn, 300.0)))
        return found

    def predict(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> np.ndarray:
        return np.log(sum(self._exponentials(theta_KP, x)))

    def gradient(self, theta_KP: np.ndarray, x: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        parts = self._exponentials(theta_KP, x)
        total_Kn = sum(parts)
        gradient_KPn = np.zeros((*theta_KP.shape, total_Kn.shape[1]))
        for term, part_Kn in zip(self.terms(x), parts):
            share_Kn = part_Kn / total_Kn
            for index, phi in term.items():
                gradient_KPn[:, index] += share_Kn if isinstance(phi, int) and phi == 1 else share_Kn * phi
        return np.log(total_Kn), gradient_KPn


def grid(*axes: Sequence[float]) -> np.ndarray:
    """(S, number of axes): every combination."""
    return np.array(list(product(*axes)), dtype=float)


def amplitude(share: Any, level: float, exponent: Any, log_x: np.ndarray) -> Any:
    """Logarithm of A such that A x^-exponent is `share` of exp(level) at the data's middle."""
    return np.log(share) + level + exponent * float(np.mean(log_x))
