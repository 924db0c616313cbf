r"""A table drawn from a seed: a row's class moves its numbers and chooses its categories; nothing need be downloaded.

    number_k = cos(k + 2 pi class / classes) + noise        category_j = 1 + (class + j) mod kinds, or any        values = number_1, number_2

A row is a function of (seed, its number), its class is number mod classes.
"""

from __future__ import annotations

import numpy as np

from ...core.parts import Fraction, NonNegative, Positive, part
from ...core.seams import Field
from ..rows import Row, Rows
from .table_csv import table_fields


@part
class SyntheticTable(Rows):
    """count: rows. numbers, categories: columns; kinds: values of a categorical one. classes: of the label. values: whether there are two
    numbers to predict. missing: share of cells that are blank. noise: deviation, and share of categories that are any. seed: of all
    rows."""

    threads = False

    def __init__(
        self,
        *,
        count: Positive[int] = 1024,
        numbers: Positive[int] = 4,
        categories: Positive[int] = 2,
        kinds: Positive[int] = 5,
        classes: Positive[int] = 3,
        values: bool = False,
        missing: Fraction = 0.05,
        noise: Fraction = 0.2,
        seed: NonNegative[int] = 0,
    ):
        super().__init__()
        self.count, self.numbers, self.categories, self.kinds, self.classes = count, numbers, categories, kinds, classes
        self.with_values, self.missing, self.noise, self.drawn_from = values, missing, noise, seed
        self.identity = f"synthetic_table/{count}/{numbers}/{categories}/{kinds}/{classes}/{values}/{missing}/{noise}/{seed}"

    @staticmethod
    def known_fields(knobs: dict[str, int], sequence: int) -> dict[str, Field]:
        """All of it: nothing is read."""
        return table_fields(knobs["numbers"], knobs["categories"], knobs["kinds"] + 1, knobs["classes"], 2 * bool(knobs["values"]))

    def stored(self) -> dict[str, Field]:
        return table_fields(self.numbers, self.categories, self.kinds + 1, self.classes, 2 * self.with_values)

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        return f"synthetic row {index}"

    def row(self, index: int) -> Row:
        """numbers, numbers_missing, categories, label, values."""
        draw = np.random.Generator(np.random.Philox(key=[self.drawn_from, index + 1]))
        label = index % self.classes
        number = np.cos(np.arange(self.numbers) + 2 * np.pi * label / self.classes) + draw.normal(0, self.noise, self.numbers)
        lost = draw.uniform(size=self.numbers) < self.missing
        kind = 1 + (label + np.arange(self.categories)) % self.kinds
        kind = np.where(draw.uniform(size=self.categories) < self.noise, draw.integers(1, self.kinds + 1, self.categories), kind)
        kind = np.where(draw.uniform(size=self.categories) < self.missing, 0, kind)
        row: Row = {"numbers": np.where(lost, 0, number).astype(np.float32), "numbers_missing": lost, "categories": kind, "label": label}
        return row | ({"values": number[:2].astype(np.float32)} if self.with_values else {})
