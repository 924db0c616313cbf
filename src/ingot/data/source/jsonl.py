"""JSON lines, one document a line; plain, .gz or .zst.

A line is an object with the text under ``field``. With ``id`` the split between training and validation follows that field,
without it, or where it is null, the text. Blank lines are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...core.parts import part
from ...core.quantities import Bytes
from ...core.resolve import nearest
from ...core.seams import Document, Shard
from ._files import absent, bad, decode, document_id, file_shards, find_files, line_number, lines
from ._fingerprint import Range

_DECODER = json.JSONDecoder()  # by itself it takes half the time of json.loads


@part
class Jsonl:
    """paths: files, directories or globs, relative to the recipe. field: where the text is. id: where a document's id is.
    longest: refuse lines above this size."""

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        field: str = "text",
        id: str | None = None,
        suffixes: list[str] | None = None,
        longest: Bytes = "256 MiB",
    ):
        self.folder, self.paths, self.field, self.id, self.suffixes, self.longest = (
            Path(folder),
            paths,
            field,
            id,
            suffixes,
            int(longest.value),
        )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])

    def shards(self) -> list[Shard]:
        """Raises UserError for missing, unreadable or empty input."""
        files = find_files(self.folder, self.paths, self.suffixes)
        return file_shards(files, separator=b"\n", settings=("jsonl", 1, self.field, self.id), read=self._read)

    def _read(self, item: Range) -> Iterator[Document]:
        for index, offset, line in lines(item, self.longest):
            if line.strip():
                yield self._document(line, item, index, offset)

    def _document(self, line: bytes, item: Range, index: int, offset: int) -> Document:
        def at(_: int = 0) -> str:
            return f"{item.path}:{line_number(item, index)}"

        row = object_of(line, at, offset)
        text = text_of(row, self.field, at)
        return Document(document_id(value_of(row, self.id, at) if self.id else None, text), text)


def object_of(line: bytes, at: Callable[..., str], offset: int) -> dict[str, Any]:
    """A line's object. at: names its place, for the error; asked only then, since counting lines reads the file. Raises UserError."""
    text = decode(line, at, offset)
    try:
        row, end = _DECODER.raw_decode(text)
        if end == len(text) and isinstance(row, dict):
            return row
    except (ValueError, RecursionError):
        pass
    try:  # blanks around the object, or something wrong, which this says in full
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise bad(at(), f"is not valid JSON: {error.msg} at column {error.colno}") from None
    except ValueError:  # Python refuses to read numbers of thousands of digits
        raise bad(at(), "holds a number of too many digits") from None
    except RecursionError:
        raise bad(at(), "is nested too deeply") from None
    if not isinstance(row, dict):
        raise bad(at(), f"wants a JSON object, got {type(row).__name__}")
    return row


def value_of(row: dict[str, Any], field: str, at: Callable[..., str]) -> Any:
    """A field of a line's object. Raises UserError with the nearest name."""
    if field in row:
        return row[field]
    raise bad(at(), f"has no field {field!r}; it has {', '.join(map(str, row)) or 'none'}. {nearest(field, row)}".strip())


def text_of(row: dict[str, Any], field: str, at: Callable[..., str]) -> str:
    """A field that is text, without lone surrogates, which JSON escapes can spell and no UTF-8 can hold. Raises UserError."""
    text = value_of(row, field, at)
    if not isinstance(text, str):
        raise bad(at(), f"field {field!r} wants text, got {type(text).__name__}")
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise bad(at(), f"holds a lone surrogate escape at character {error.start}, which is not text") from None
    return text
