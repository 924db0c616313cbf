r"""Sentences drawn from a seed whose class is told by a few of their words; nothing need be downloaded.

    sentence = ``length`` words, each one of the ``common`` ones or, with probability ``told``, one of the class's own three

A row is a function of (seed, its number), its class is number mod classes; the words do not depend on the seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.parts import Fraction, NonNegative, Positive, part
from ...core.seams import Field
from ..rows import Row, Rows, text_fields

SYLLABLES = ("ba", "do", "fe", "gi", "ku", "la", "mo", "ne", "ri", "su", "ta", "vo")
OWN = 3


@part
class SyntheticText(Rows):
    """count: rows. classes, length, common, told: see above. seed: of all rows."""

    threads = False

    def __init__(
        self,
        *,
        count: Positive[int] = 1024,
        classes: Positive[int] = 2,
        length: Positive[int] = 6,
        common: Positive[int] = 30,
        told: Fraction = 0.4,
        seed: NonNegative[int] = 0,
    ):
        super().__init__()
        self.count, self.classes = count, classes
        words = [word(number) for number in range(common + OWN * classes)]
        self.sentences = []
        for index in range(count):
            draw = np.random.Generator(np.random.Philox(key=[seed, index + 1]))
            own = common + OWN * (index % classes) + draw.integers(OWN, size=length)
            chosen = np.where(draw.random(length) < told, own, draw.integers(common, size=length))
            self.sentences.append(" ".join(words[number] for number in chosen))
        self.identity = f"synthetic_text/{count}/{classes}/{length}/{common}/{told}/{seed}"

    @staticmethod
    def known_fields(knobs: dict[str, int], sequence: int) -> dict[str, Field]:
        """All of it: nothing is read."""
        return text_fields(sequence) | {"label": Field((), "int64", knobs["classes"])}

    @staticmethod
    def with_text(knobs: dict[str, int]) -> bool:
        """Always: a row is a sentence."""
        return True

    def stored(self) -> dict[str, Field]:
        return {"label": Field((), "int64", self.classes)}

    def captions(self) -> Sequence[str]:
        return self.sentences

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        return f"synthetic sentence {index}"

    def row(self, index: int) -> Row:
        """label; the base class adds the tokens."""
        return {"label": index % self.classes}


def word(number: int) -> str:
    """A word for every number, no two alike: its digits to the base of the syllables, two at least."""
    found = SYLLABLES[number % len(SYLLABLES)]
    number //= len(SYLLABLES)
    while True:
        found += SYLLABLES[number % len(SYLLABLES)]
        number //= len(SYLLABLES)
        if not number:
            return found
