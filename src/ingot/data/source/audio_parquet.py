"""Sounds encoded in a parquet column: files' bytes as they are, or records of bytes and path as Hugging Face data sets keep them.

Rows are found through the row groups, which are read as they are needed; labels and texts are read at once. Classes: whole numbers as
they are, words in the order of the alphabet. A row that is damaged, empty, too short or of several channels is named with file and row.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.parts import Fraction, NonNegative, Positive, part
from ...core.quantities import Bytes
from ...core.resolve import nearest
from ...core.seams import Field
from ._files import absent, bad, find_files
from ._fingerprint import Range, digest, fingerprints
from ._rows import BadRow
from ._sounds import Sounds, known_fields, soundfile, transcript_fields
from .parquet import _line, _opened


@part
class AudioParquet(Sounds):
    """paths: files, directories or globs. seconds: of a row; rate: samples a second. audio, label, transcript: columns. classes: how
    many there are, where a recipe must be planned without its files. keep, drop: only rows, or no rows, whose column holds one of the
    values, such as ``drop: {speaker: [theo]}``. shortest, convert, mels: see recipes; skip: share of rows that may be unusable. hold:
    memory for encoded sounds."""

    text_fields = staticmethod(transcript_fields)

    def __init__(
        self, folder: Path, *, paths: list[str], seconds: Positive[float], rate: Positive[int] = 16000, audio: str = "audio", label: str | None = None,
        transcript: str | None = None, classes: Positive[int] | None = None, keep: dict[str, list[str]] = {}, drop: dict[str, list[str]] = {},  # noqa: B006
        shortest: NonNegative[float] = 0.0, convert: bool = True, mels: Positive[int] | None = None, skip: Fraction = 0.0, hold: Bytes = "2 GiB",
    ):  # fmt: skip
        super().__init__(rate=rate, seconds=seconds, shortest=shortest, convert=convert, mels=mels, skip=skip)
        soundfile()
        self.column, self.hold = audio, hold
        self.files = find_files(Path(folder), paths, [".parquet"])
        self.groups: list[tuple[Path, int, int, int]] = []  # file, row group, first row in the file, rows
        wanted = list(dict.fromkeys(filter(None, (label, transcript, *keep, *drop))))
        beside: dict[str, list[Any]] = {name: [] for name in wanted}
        for path in self.files:
            self._index(path, beside)
        self.starts = np.cumsum([0, *(count for *_, count in self.groups)])
        there = np.ones(int(self.starts[-1]), dtype=bool)
        for name, values in keep.items():
            there &= np.isin([str(value) for value in beside[name]], values)
        for name, values in drop.items():
            there &= ~np.isin([str(value) for value in beside[name]], values)
        self.ids = np.flatnonzero(there)
        if not len(self.ids):
            raise bad(self.files[0], "holds no row" + (" that keep and drop leave" if keep or drop else ""))
        self.identity = digest("audio_parquet", 1, fingerprints([Range(path, 0, path.stat().st_size) for path in self.files]), audio, label, transcript, keep, drop, rate)
        if transcript:
            self.transcripts = [str(beside[transcript][index] or "") for index in self.ids]
        if label:
            self.number([beside[label][index] for index in self.ids], classes, f"column {label!r}")
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])

    @staticmethod
    def with_text(knobs: dict[str, Any]) -> bool:
        """What was said becomes ids."""
        return bool(knobs["transcript"])

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field] | None:
        """What the recipe alone says."""
        return known_fields(knobs, sequence)

    def _index(self, path: Path, beside: dict[str, list[Any]]) -> None:
        with _opened(path) as file:
            names = file.schema_arrow.names
            for name in (self.column, *beside):
                if name not in names:
                    raise bad(path, f"has no column {name!r}; it has {', '.join(names)}. {nearest(name, names)}".strip())
            first = 0
            for group in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                self.groups.append((path, group, first, count))
                first += count
            table = file.read(columns=list(beside)) if beside else None
        for name, values in beside.items():
            values += table.column(name).to_pylist()

    def __len__(self) -> int:
        return len(self.ids)

    def _place(self, index: int) -> tuple[int, int]:
        """Row group, and row within it."""
        row = int(self.ids[index])
        at = int(np.searchsorted(self.starts, row, side="right")) - 1
        return at, row - int(self.starts[at])

    def where(self, index: int) -> str:
        at, row = self._place(index)
        path, _, first, _ = self.groups[at]
        return f"{path} row {first + row}"

    def encoded(self, index: int) -> bytes:
        at, row = self._place(index)
        value = self._group(at)[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is not None and not isinstance(data, bytes):
            raise UserError(f"{self.where(index)}: column {self.column!r} wants the bytes of a sound file, got {type(data).__name__}")
        if not data:
            raise BadRow(f"column {self.column!r} holds no sound")
        return data

    def _group(self, at: int) -> Any:
        """The sound column of a row group, kept while there is room."""
        with self._lock:
            if at in self._held:
                self._held.move_to_end(at)
                return self._held[at]
        path, group, _, _ = self.groups[at]
        with _opened(path) as file:
            try:
                column = file.read_row_group(group, columns=[self.column]).column(0).combine_chunks()
            except (OSError, ValueError) as error:
                raise bad(path, f"row group {group} is damaged: {_line(error)}") from None
        with self._lock:
            self._held[at] = column
            while len(self._held) > 1 and sum(item.nbytes for item in self._held.values()) > self.hold.value:
                self._held.popitem(last=False)
        return column
