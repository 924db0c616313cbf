"""Parquet files with encoded images in one column, and a class or a text beside them.

A row of a file is a row. The image column holds bytes, or a record with a field ``bytes`` as Hugging Face data sets have it. Row
groups are read when one of their rows is asked for, and up to ``hold`` of their bytes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from ...core.parts import Fraction, Positive, part
from ...core.quantities import Bytes
from ...core.seams import Field
from ..rows import Row, text_fields
from ._encoded import EncodedColumn
from ._files import absent, bad
from ._fingerprint import digest
from ._images import Gray, Images, classified, image_fields, numbered


@part
class ImagesParquet(Images):
    """paths: files, directories or globs. size: side of the square image. image, label, caption: columns; a list of texts gives the
    first. concept: a column of names that several rows may share, as numbers under the key concept (retrieval counts a hit by it). classes:
    how many there are, where a recipe must be planned without its files. rows: only the first of each file. channels, convert, background:
    how pixels are read; skip: share of rows that may be unreadable. hold: memory for encoded images."""

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        size: Positive[int],
        image: str = "image",
        label: str | None = None,
        caption: str | None = None,
        concept: str | None = None,
        classes: Positive[int] | None = None,
        rows: Positive[int] | None = None,
        channels: Literal[1, 3] = 3,
        convert: bool = True,
        background: Gray = 255,
        skip: Fraction = 0.0,
        hold: Bytes = "2 GiB",
    ):
        super().__init__(size=size, channels=channels, convert=convert, background=background, skip=skip)
        self.found = EncodedColumn(
            folder, paths, image, "image", beside=dict.fromkeys(filter(None, (label, caption, concept))), most=rows, hold=hold.value
        )
        beside = self.found.beside
        if not len(self.found):
            raise bad(self.found.files[0], "holds no row")
        self.identity = digest("images_parquet", 1, self.found.identity(), image, label, caption, rows, *([concept] if concept else []))
        self._captions = [_text(value) for value in beside[caption]] if caption else None
        self.concepts = numbered([str(value) for value in beside[concept]])[0] if concept else None
        if label:
            self.labels, self.names, self.classes = classified(beside[label], classes, f"column {label!r}", self.where)

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
        fields = image_fields(knobs["size"], knobs["channels"]) | (
            {"label": Field((), "int64", knobs["classes"])} if knobs["label"] else {}
        )
        fields |= {"concept": Field((), "int64")} if knobs["concept"] else {}
        return fields | (text_fields(sequence) if knobs["caption"] else {})

    def __len__(self) -> int:
        return len(self.found)

    def captions(self) -> Sequence[str] | None:
        return self._captions

    def stored(self) -> dict[str, Field]:
        return super().stored() | ({} if self.concepts is None else {"concept": Field((), "int64")})

    def row(self, index: int) -> Row:
        return super().row(index) | ({} if self.concepts is None else {"concept": int(self.concepts[index])})

    def where(self, index: int) -> str:
        return self.found.where(index)

    def encoded(self, index: int) -> bytes:
        return self.found.value(index)


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    return str(value) if value is not None else ""
