r"""Sounds drawn from a seed: a word is a few tones one after another; nothing need be downloaded.

    x(t) = a sin(2 pi f_l t (1 + v) + phase) + noise        l: the letter that sounds at t

The class is the word: number mod classes. A speaker has a pitch of his own (v), each row its lengths, loudness, phases and noise.
Letters and words do not depend on the seed. With ``transcripts`` the word comes as text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.parts import Fraction, NonNegative, Positive, part
from ...core.seams import Field
from ..rows import Row
from ._sounds import Sounds, known_fields, transcript_fields

LETTERS = "aeiourst"


@part
class SyntheticAudio(Sounds):
    """count: rows. seconds, rate: of a row. classes: words; speakers: voices, the row's is drawn. noise: its standard deviation.
    longest: the longest clip, in rows (beyond 1 clips are cut). vary: how much shorter a tone may be than the longest.
    transcripts, mels: see above. seed: of all rows."""

    threads = False
    text_fields = staticmethod(transcript_fields)

    def __init__(
        self,
        *,
        count: Positive[int] = 1024,
        seconds: Positive[float] = 0.5,
        rate: Positive[int] = 4000,
        classes: Positive[int] = 4,
        speakers: Positive[int] = 4,
        noise: NonNegative[float] = 0.02,
        longest: Positive[float] = 1.0,
        vary: Fraction = 0.2,
        transcripts: bool = False,
        mels: Positive[int] | None = None,
        seed: NonNegative[int] = 0,
    ):
        super().__init__(rate=rate, seconds=seconds, shortest=0.0, convert=True, mels=mels, skip=0.0)
        self.count, self.seconds, self.speakers, self.noise, self.vary, self.drawn_from = (
            count,
            seconds * longest,
            speakers,
            noise,
            vary,
            seed,
        )
        draw = np.random.Generator(np.random.Philox(key=2))  # words sound alike under every seed
        self.words = ["".join(LETTERS[letter] for letter in draw.permutation(len(LETTERS))[:3]) for _ in range(classes)]
        self.labels, self.classes = np.arange(count) % classes, classes
        self.transcripts = [self.words[label] for label in self.labels] if transcripts else None
        self.identity = (
            f"synthetic_audio/{count}/{seconds}/{rate}/{classes}/{speakers}/{noise}/{longest}/{vary}/{transcripts}/{mels}/{seed}"
        )

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field] | None:
        """All of it: nothing is read."""
        return known_fields(knobs | {"label": True, "transcript": knobs["transcripts"]}, sequence)

    @staticmethod
    def with_text(knobs: dict[str, Any]) -> bool:
        """Words become ids."""
        return bool(knobs["transcripts"])

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        return f"synthetic sound {index}"

    def row(self, index: int) -> Row:
        return super().row(index) | {"label": index % (self.classes or 1)}

    def length(self, index: int) -> int:
        return len(self.sound(index))

    def sound(self, index: int) -> np.ndarray:
        draw = np.random.Generator(np.random.Philox(key=[self.drawn_from, index + 1]))
        voice = int(draw.integers(self.speakers))
        word = self.words[index % len(self.words)]
        pieces = []
        for letter in word:
            size = int(self.rate * self.seconds * draw.uniform(1 - self.vary, 1.0) / len(word))
            f = self.rate * (0.04 + 0.05 * LETTERS.index(letter)) * (1 + 0.03 * voice)
            t = np.arange(size) / self.rate
            pieces.append(draw.uniform(0.3, 0.8) * np.sin(2 * np.pi * f * t + draw.uniform(0, 2 * np.pi)) * np.hanning(size) ** 0.2)
        x_S = np.concatenate(pieces)
        return (x_S + draw.normal(0, self.noise, len(x_S))).clip(-1, 1).astype(np.float32)
