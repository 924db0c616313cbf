"""Parquet files with encoded images in one column, and a class or a text beside them.

A row of a file is a row. The image column holds bytes, or a record with a field ``bytes`` as Hugging Face data sets have it. Row
groups are read when one of their rows is asked for, and up to ``hold`` of their bytes are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...core.errors import UserError
from ...core.parts import Fraction, Positive, part
from ...core.quantities import Bytes
from ...core.resolve import nearest
from ...core.seams import Field
from ._files import absent, bad, find_files
from ._fingerprint import Range, digest, fingerprints
from ._images import Images, image_fields, numbered
from ._rows import BadRow, Row, text_fields
from .parquet import _line, _opened


@part
class ImagesParquet(Images):
    """paths: files, directories or globs. size: side of the square image. image, label, caption: columns; a list of texts gives the
    first. concept: a column of names that several rows may share, as numbers under the key concept (retrieval counts a hit by it). classes: how many there are, where a recipe must be planned without its files. rows: only the first of each file. channels,
    convert, background: how pixels are read; skip: share of rows that may be unreadable. hold: memory for encoded images."""

    def __init__(
        self, folder: Path, *, paths: list[str], size: Positive[int], image: str = "image", label: str | None = None, caption: str | None = None, concept: str | None = None,
        classes: Positive[int] | None = None, rows: Positive[int] | None = None, channels: Literal[1, 3] = 3, convert: bool = True,
        background: Positive[int] = 255, skip: Fraction = 0.0, hold: Bytes = "2 GiB",
    ):  # fmt: skip
        super().__init__(size=size, channels=channels, convert=convert, background=background, skip=skip)
        self.column, self.hold = image, hold
        self.files = find_files(Path(folder), paths, [".parquet"])
        self.groups: list[tuple[Path, int, int, int]] = []  # file, row group, first row in the file, rows
        labels: list[Any] = []
        self._captions: list[str] | None = [] if caption else None
        concepts: list[Any] = []
        for path in self.files:
            self._index(path, image, label, caption, concept, rows, labels, concepts)
        self.starts = np.cumsum([0, *(count for *_, count in self.groups)])
        if not self.groups:
            raise bad(self.files[0], "holds no row")
        self.identity = digest("images_parquet", 1, fingerprints([Range(path, 0, path.stat().st_size) for path in self.files]), image, label, caption, rows, *([concept] if concept else []))
        self.concepts = numbered([str(value) for value in concepts])[0] if concept else None
        if label:
            self._number(label, labels, classes)
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])

    @staticmethod
    def with_text(knobs: dict[str, Any]) -> bool:
        """Captions become tokens."""
        return bool(knobs["caption"])

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field] | None:
        """What the recipe alone says."""
        if knobs["label"] and knobs["classes"] is None:
            return None
        fields = image_fields(knobs["size"], knobs["channels"]) | ({"label": Field((), "int64", knobs["classes"])} if knobs["label"] else {})
        fields |= {"concept": Field((), "int64")} if knobs["concept"] else {}
        return fields | (text_fields(sequence) if knobs["caption"] else {})

    def _index(self, path: Path, image: str, label: str | None, caption: str | None, concept: str | None, rows: int | None, labels: list[Any], concepts: list[Any]) -> None:
        with _opened(path) as file:
            names = file.schema_arrow.names
            for name in filter(None, (image, label, caption, concept)):
                if name not in names:
                    raise bad(path, f"has no column {name!r}; it has {', '.join(names)}. {nearest(name, names)}".strip())
            left, first = rows if rows is not None else file.metadata.num_rows, 0
            for group in range(file.metadata.num_row_groups):
                count = min(left, file.metadata.row_group(group).num_rows)
                if count > 0:
                    self.groups.append((path, group, first, count))
                first, left = first + count, left - count
            beside = file.read(columns=list(filter(None, {label, caption, concept})))
        if label:
            labels += beside.column(label).slice(0, first).to_pylist()
        if concept:
            concepts += beside.column(concept).slice(0, first).to_pylist()
        if caption and self._captions is not None:
            self._captions += [_text(value) for value in beside.column(caption).slice(0, first).to_pylist()]

    def _number(self, column: str, values: list[Any], classes: int | None) -> None:
        missing = next((index for index, value in enumerate(values) if value is None), None)
        if missing is not None:
            raise UserError(f"{self.where(missing)}: column {column!r} is empty")
        self.labels, self.names = numbered(values)
        if self.labels.min() < 0 or (classes is not None and self.labels.max() >= classes):
            raise UserError(f"column {column!r} holds classes {self.labels.min()} to {self.labels.max()}, wanted are 0 to {(classes or 1) - 1}")
        self.classes = classes or int(self.labels.max()) + 1

    def __len__(self) -> int:
        return int(self.starts[-1])

    def captions(self) -> Sequence[str] | None:
        return self._captions

    def stored(self) -> dict[str, Field]:
        return super().stored() | ({} if self.concepts is None else {"concept": Field((), "int64")})

    def row(self, index: int) -> Row:
        return super().row(index) | ({} if self.concepts is None else {"concept": int(self.concepts[index])})

    def where(self, index: int) -> str:
        at = int(np.searchsorted(self.starts, index, side="right")) - 1
        path, _, first, _ = self.groups[at]
        return f"{path} row {first + index - int(self.starts[at])}"

    def encoded(self, index: int) -> bytes:
        at = int(np.searchsorted(self.starts, index, side="right")) - 1
        value = self._group(at)[index - int(self.starts[at])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise BadRow(f"column {self.column!r} holds no image")
        return data

    def _group(self, at: int) -> Any:
        """The image column of a row group, kept while there is room."""
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


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    return str(value) if value is not None else ""
