"""Training curves as the laws over whole schedules want them.

A table of curves has columns step, lr, loss, and `run` where there are several; rows of a run are in order. Rows without a loss (nan) are
the planned part of a schedule. Between rows the learning rate is taken as linear; before a run's first row, as a linear warm-up over
`warmup` steps, then constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._base import Columns


@dataclass(frozen=True)
class Curve:
    """One run. rows: its positions in the table; step_m, lr_m; sum_m: S_1, the sum of learning rates so far; warmup: its steps."""

    rows: np.ndarray
    step_m: np.ndarray
    lr_m: np.ndarray
    sum_m: np.ndarray
    warmup: float

    def rises(self, pieces: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(drop_k, lr_k, sum_k) of the warm-up, in equal pieces: the rate climbs, so it drops by less than nothing."""
        share = (np.arange(pieces) + 1) / pieces
        middle = share - 0.5 / pieces
        return np.full(pieces, -self.lr_m[0] / pieces), self.lr_m[0] * share, self.lr_m[0] * self.warmup * middle**2 / 2

    def drops(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(drop_k, lr_k, sum_k, step_k): where the rate changed: by how much it fell, what it then was, S_1 and the step at that moment.

        A change between two rows is placed halfway between them.
        """
        drop = self.lr_m[:-1] - self.lr_m[1:]
        at = np.flatnonzero(np.abs(drop) > 1e-12 * self.lr_m.max())
        half = np.diff(self.step_m)[at] / 2
        floor = 1e-4 * self.lr_m.max()
        return drop[at], np.maximum(self.lr_m[1:][at], floor), self.sum_m[1:][at] - half * self.lr_m[1:][at], self.step_m[1:][at] - half


def curves(table: Columns, warmup: int | None = None) -> list[Curve]:
    """The runs of a table. warmup: steps; None: the first row is where it ended."""
    step, lr = np.asarray(table["step"], float), np.asarray(table["lr"], float)
    run = np.asarray(table["run"]) if "run" in table else np.zeros(len(step))
    found = []
    for name in dict.fromkeys(run.tolist()):
        rows = np.flatnonzero(run == name)
        s, eta = step[rows], lr[rows]
        climb = s[0] if warmup is None else min(warmup, s[0])
        before = eta[0] * (s[0] - climb / 2)
        total = before + np.concatenate([[0.0], np.cumsum(np.diff(s) * (eta[1:] + eta[:-1]) / 2)])
        found.append(Curve(rows, s, eta, np.maximum(total, 1e-12), climb))
    return found


def scatter(curves_: list[Curve], name: str, size: int) -> np.ndarray:
    """A per-row array of the table from an attribute of its curves."""
    out = np.zeros(size)
    for curve in curves_:
        out[curve.rows] = getattr(curve, name)
    return out


Prepared = dict[str, Any]
