r"""Series drawn from a seed: waves of two frequencies over a level, per channel; nothing need be downloaded.

    value_tc = level_c + sin(2 pi t / period_k + phase_c) + a_c sin(2 pi t / (2.7 period_k)) + noise        k: the window's class

A window is a function of (seed, its number): its class is number mod classes, its phases and levels are its own.
"""

from __future__ import annotations

import numpy as np

from ...core.parts import Fraction, NonNegative, Positive, part
from ...core.seams import Field
from ..rows import Row, Rows
from .series_csv import window_fields


@part
class SyntheticSeries(Rows):
    """count: windows. look_back, horizon, channels: of what. classes: how many periods there are. noise: deviation. missing: share of
    values that are blank. seed: of all windows."""

    threads = False

    def __init__(
        self,
        *,
        count: Positive[int] = 1024,
        look_back: Positive[int] = 64,
        horizon: NonNegative[int] = 16,
        channels: Positive[int] = 2,
        classes: Positive[int] = 3,
        noise: NonNegative[float] = 0.1,
        missing: Fraction = 0.0,
        seed: NonNegative[int] = 0,
    ):
        super().__init__()
        self.count, self.look_back, self.horizon, self.channels, self.classes, self.noise, self.missing, self.drawn_from = (
            count,
            look_back,
            horizon,
            channels,
            classes,
            noise,
            missing,
            seed,
        )
        self.identity = f"synthetic_series/{count}/{look_back}/{horizon}/{channels}/{classes}/{noise}/{missing}/{seed}"

    @staticmethod
    def known_fields(knobs: dict[str, float], sequence: int) -> dict[str, Field]:
        """All of it: nothing is read."""
        return window_fields(
            int(knobs["look_back"]), int(knobs["horizon"]), int(knobs["channels"]), knobs["missing"] > 0, int(knobs["classes"])
        )

    def stored(self) -> dict[str, Field]:
        return window_fields(self.look_back, self.horizon, self.channels, self.missing > 0, self.classes)

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        return f"synthetic window {index}"

    def row(self, index: int) -> Row:
        """series, future, what of them was observed, label."""
        draw = np.random.Generator(np.random.Philox(key=[self.drawn_from, index + 1]))
        label, length, C = index % self.classes, self.look_back + self.horizon, self.channels
        t = np.arange(length)[:, None]
        turn = 2 * np.pi * t / (8.0 * 1.5**label)
        values = draw.normal(0, 2, C) + np.sin(turn + draw.uniform(0, 2 * np.pi, C)) + draw.uniform(0, 0.5, C) * np.sin(turn / 2.7)
        values = (values + draw.normal(0, self.noise, (length, C))).astype(np.float32)
        row: Row = {"series": values[: self.look_back], "label": label} | ({"future": values[self.look_back :]} if self.horizon else {})
        if not self.missing:
            return row
        there = draw.uniform(size=(length, C)) >= self.missing
        parts = {"series": there[: self.look_back]} | ({"future": there[self.look_back :]} if self.horizon else {})
        row |= {key: np.where(part, row[key], 0) for key, part in parts.items()}
        return row | {{"series": "observed", "future": "future_observed"}[key]: part for key, part in parts.items()}
