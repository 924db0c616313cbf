"""Texts with a class each, one document a row: what a text classifier is trained on, and what probes of a text encoder read.

Files are JSON lines (plain, .gz or .zst), .csv and .tsv with a header (in .tsv a line is a row, and quotes mean nothing), or .parquet. A
row is one document's tokens, cut to the data's ``sequence`` and closed by the end token, and its ``label``; a document without a label
(null, or an empty cell) has -100 and is not scored. Labels are whole numbers from 0, or words that ``classes`` names in order, so that
training and held-out files number them alike.

State: all texts and their tokens in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import missing_extra
from ...core.parts import Fraction, Positive, part
from ...core.resolve import nearest
from ...core.seams import Field
from ..rows import Row, Rows, text_fields
from ._csv import LONGEST, read
from ._files import absent, bad, find_files, lines
from ._fingerprint import Range, digest, fingerprints
from .jsonl import object_of, text_of, value_of
from .parquet import _line, _opened

JSON = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TABLES = {".csv": ",", ".tsv": "\t"}


@part
class LabeledText(Rows):
    """paths: files, directories or globs, relative to the recipe. text, label: fields or columns. classes: how many, or, where labels are
    words, their names in order. rows: only the first of each file. skip: share of rows whose text may be empty."""

    threads = False
    classes_said = True  # words are numbered as the recipe orders them

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        text: str = "text",
        label: str = "label",
        classes: Positive[int] | list[str] | None = None,
        rows: Positive[int] | None = None,
        skip: Fraction = 0.0,
    ):
        super().__init__(skip=skip)
        self.names = classes if isinstance(classes, list) else []
        files = find_files(Path(folder), paths, [*JSON, *TABLES, ".parquet"])
        self._texts: list[str] = []
        self._places: list[tuple[Path, int]] = []  # file, and line, or row of a parquet file
        labels: list[Any] = []
        for path in files:
            for found, (number, document, value) in enumerate(_read(path, text, label)):
                if rows is not None and found >= rows:
                    break
                self._texts.append(document)
                self._places.append((path, number))
                labels.append(value)
        if not self._texts:
            raise bad(files[0] if len(files) == 1 else folder, "the data is empty: no file has a row")
        self.labels = np.array([self._number(value, label, index) for index, value in enumerate(labels)], dtype=np.int64)
        known = len(self.names) or (classes if isinstance(classes, int) else None)
        self.classes = known or max(1, int(self.labels.max()) + 1)
        beyond = np.flatnonzero(self.labels >= self.classes)
        if len(beyond):
            raise bad(self.where(int(beyond[0])), f"{label} {self.labels[beyond[0]]} is none of the {self.classes} classes from 0")
        self.identity = digest(
            "labeled_text", 1, fingerprints([Range(path, 0, path.stat().st_size) for path in files]), text, label, classes, rows
        )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])
        names = knobs["classes"] if isinstance(knobs["classes"], list) else ["a", "b"]
        if len(set(names)) < len(names) or len(names) < 2:
            yield "classes: wants at least two names, each once"

    @staticmethod
    def with_text(knobs: dict[str, Any]) -> bool:
        """Always: a row is a text."""
        return True

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field] | None:
        """What the recipe alone says."""
        classes = knobs["classes"]
        if classes is None:
            return None
        return text_fields(sequence) | label_field(len(classes) if isinstance(classes, list) else classes)

    def __len__(self) -> int:
        return len(self._texts)

    def stored(self) -> dict[str, Field]:
        return label_field(self.classes)

    def captions(self) -> Sequence[str]:
        return self._texts

    def row(self, index: int) -> Row:
        """label; the base class adds the tokens."""
        return {"label": int(self.labels[index])}

    def where(self, index: int) -> str:
        path, number = self._places[index]
        return f"{path} row {number}" if path.suffix == ".parquet" else f"{path}:{number}"

    def _number(self, value: Any, name: str, index: int) -> int:
        """The class that a label says. Raises UserError with file and row."""
        if value is None or value == "":
            return -100
        if self.names:
            if str(value) not in self.names:
                hint = nearest(str(value), self.names)
                raise bad(self.where(index), f"{name} {value!r} is none of {', '.join(self.names)}. {hint}".strip())
            return self.names.index(str(value))
        if isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal()):
            if int(value) >= 0:
                return int(value)
        elif isinstance(value, str):
            raise bad(self.where(index), f"{name} {value!r} is a word: name the classes in order, such as classes: [negative, positive]")
        raise bad(self.where(index), f"{name} wants a whole number from 0, got {value!r}")


def label_field(classes: int) -> dict[str, Field]:
    """Of a row's class."""
    return {"label": Field((), "int64", classes)}


def _read(path: Path, text: str, label: str) -> Iterator[tuple[int, str, Any]]:
    """Line (row of a parquet file), text and label of each document. Raises UserError with file and line."""
    if path.suffix == ".parquet":
        yield from _from_parquet(path, text, label)
        return
    if path.suffix in TABLES:
        table = read(path, TABLES[path.suffix])
        yield from zip(table.lines, table.texts(text), table.texts(label), strict=True)
        return
    for index, offset, line in lines(Range(path, 0, path.stat().st_size), LONGEST):
        if line.strip():

            def at(_: int = 0, number: int = index + 1) -> str:
                return f"{path}:{number}"

            row = object_of(line, at, offset)
            yield index + 1, text_of(row, text, at), value_of(row, label, at)


def _from_parquet(path: Path, text: str, label: str) -> Iterator[tuple[int, str, Any]]:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise missing_extra("pyarrow", "data") from None
    with _opened(path) as file:
        names = file.schema_arrow.names
        for name in (text, label):
            if name not in names:
                raise bad(path, f"has no column {name!r}; it has {', '.join(names)}. {nearest(name, names)}".strip())
        try:
            table = file.read(columns=[text, label])
        except (OSError, ValueError) as error:
            raise bad(path, f"is damaged: {_line(error)}") from None
    for number, (document, value) in enumerate(zip(table.column(text).to_pylist(), table.column(label).to_pylist(), strict=True)):
        if document is not None and not isinstance(document, str):
            raise bad(f"{path} row {number}", f"column {text!r} wants text, got {type(document).__name__}")
        yield number, document or "", value
