r"""Pictures drawn from a seed: a class is an orientation, a frequency and colors of stripes; nothing need be downloaded.

    image = ground_c + tint_c sin(f_c (x cos a_c + y sin a_c) + phase) + noise        phase and noise belong to the row

With ``captions`` a row comes with a sentence that names its class, with ``values`` with the mean of every channel, from 0 to 1.
A row is a function of (seed, its number), its class is number mod classes; what classes look like does not depend on the seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.parts import NonNegative, Positive, part
from ...core.seams import Field
from ..rows import Row, Rows, text_fields

ADJECTIVES = ("upright", "slanted", "level", "steep", "wide", "narrow", "pale", "dark")


@part
class SyntheticImages(Rows):
    """count: rows. classes, size, channels: of what. noise: standard deviation, in gray levels. captions, values: see above. seed: of
    all rows."""

    threads = False

    def __init__(
        self,
        *,
        count: Positive[int] = 1024,
        classes: Positive[int] = 4,
        size: Positive[int] = 16,
        channels: Positive[int] = 3,
        noise: NonNegative[float] = 40.0,
        captions: bool = False,
        values: bool = False,
        seed: NonNegative[int] = 0,
    ):
        super().__init__()
        self.count, self.classes, self.size, self.channels, self.noise, self.drawn_from = count, classes, size, channels, noise, seed
        self.with_values, self.sentences = (
            values,
            [f"{ADJECTIVES[index % classes % len(ADJECTIVES)]} stripes of kind {index % classes}" for index in range(count)]
            if captions
            else None,
        )
        draw = np.random.Generator(np.random.Philox(key=1))  # classes look alike under every seed
        self.angle = np.pi * np.arange(classes) / classes
        self.frequency = 2 * np.pi / size * draw.uniform(2.0, size / 3.0, classes)
        self.tint = draw.uniform(-60, 60, (classes, channels))
        self.ground = draw.uniform(98, 158, (classes, channels))
        self.identity = f"synthetic_images/{count}/{classes}/{size}/{channels}/{noise}/{captions}/{values}/{seed}"

    @staticmethod
    def known_fields(knobs: dict[str, int], sequence: int) -> dict[str, Field]:
        """All of it: nothing is read."""
        return fields_of(knobs["channels"], knobs["size"], knobs["classes"], bool(knobs["values"])) | (
            text_fields(sequence) if knobs["captions"] else {}
        )

    @staticmethod
    def with_text(knobs: dict[str, int]) -> bool:
        """Captions become tokens."""
        return bool(knobs["captions"])

    def stored(self) -> dict[str, Field]:
        return fields_of(self.channels, self.size, self.classes, self.with_values)

    def captions(self) -> Sequence[str] | None:
        return self.sentences

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        return f"synthetic image {index}"

    def row(self, index: int) -> Row:
        """image (H, W, C) uint8, label, values."""
        draw = np.random.Generator(np.random.Philox(key=[self.drawn_from, index + 1]))
        label = index % self.classes
        y, x = np.mgrid[: self.size, : self.size]
        along = x * np.cos(self.angle[label]) + y * np.sin(self.angle[label])
        wave = np.sin(self.frequency[label] * along + draw.uniform(0, 2 * np.pi))
        image = self.ground[label] + wave[..., None] * self.tint[label] + draw.normal(0, self.noise, (self.size, self.size, self.channels))
        values = {"values": (image.mean(axis=(0, 1)) / 255).astype(np.float32)} if self.with_values else {}
        return {"image": image.clip(0, 255).astype(np.uint8), "label": label} | values

    def finish(self, row: Row) -> Row:
        return row | {"image": np.ascontiguousarray(row["image"].transpose(2, 0, 1))}


def fields_of(channels: int, size: int, classes: int, values: bool) -> dict[str, Field]:
    return {"image": Field((channels, size, size), "uint8"), "label": Field((), "int64", classes)} | (
        {"values": Field((channels,))} if values else {}
    )
