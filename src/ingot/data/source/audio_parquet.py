"""Sounds encoded in a parquet column: files' bytes as they are, or records of bytes and path as Hugging Face data sets keep them.

Rows are found through the row groups, which are read as they are needed; labels and texts are read at once. Classes: whole numbers as
they are, words in the order of the alphabet. A row that is damaged, empty, too short or of several channels is named with file and row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.parts import Fraction, NonNegative, Positive, part
from ...core.quantities import Bytes
from ._encoded import EncodedColumn
from ._files import bad
from ._fingerprint import digest
from ._sounds import SoundFiles, spoken


@part
class AudioParquet(SoundFiles):
    """paths: files, directories or globs. seconds: of a row; rate: samples a second. audio, label, transcript: columns. classes: how
    many there are, where a recipe must be planned without its files. keep, drop: only rows, or no rows, whose column holds one of the
    values, such as ``drop: {speaker: [theo]}``. shortest, convert, mels: see recipes; skip: share of rows that may be unusable. hold:
    memory for encoded sounds."""

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        seconds: Positive[float],
        rate: Positive[int] = 16000,
        audio: str = "audio",
        label: str | None = None,
        transcript: str | None = None,
        classes: Positive[int] | None = None,
        keep: dict[str, list[str]] = {},
        drop: dict[str, list[str]] = {},
        shortest: NonNegative[float] = 0.0,
        convert: bool = True,
        mels: Positive[int] | None = None,
        skip: Fraction = 0.0,
        hold: Bytes = "2 GiB",
    ):
        super().__init__(rate=rate, seconds=seconds, shortest=shortest, convert=convert, mels=mels, skip=skip)
        wanted = dict.fromkeys(filter(None, (label, transcript, *keep, *drop)))
        self.found = EncodedColumn(folder, paths, audio, "sound", beside=wanted, hold=hold.value)
        beside = self.found.beside
        there = np.ones(len(self.found), dtype=bool)
        for name, values in keep.items():
            there &= np.isin([str(value) for value in beside[name]], values)
        for name, values in drop.items():
            there &= ~np.isin([str(value) for value in beside[name]], values)
        self.ids = np.flatnonzero(there)
        if not len(self.ids):
            raise bad(self.found.files[0], "holds no row" + (" that keep and drop leave" if keep or drop else ""))
        self.identity = digest("audio_parquet", 1, self.found.identity(), audio, label, transcript, keep, drop, rate)
        if transcript:
            self.transcripts = spoken(beside[transcript][index] for index in self.ids)
        if label:
            self.number([beside[label][index] for index in self.ids], classes, f"column {label!r}")

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, index: int) -> str:
        return self.found.where(int(self.ids[index]))

    def encoded(self, index: int) -> bytes:
        return self.found.value(int(self.ids[index]))
