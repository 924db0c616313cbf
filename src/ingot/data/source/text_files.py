"""Plain text files: each file, line or paragraph a document.

Files may be compressed (.gz, .zst). Reading is streamed; a line or file longer than ``longest`` is refused. Empty lines are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ...core.parts import part
from ...core.quantities import Bytes
from ...core.seams import Document, Shard
from ._files import absent, bad, blocks, decode, file_shards, find_files, line_number, lines, text_id
from ._fingerprint import Range


@part
class TextFiles:
    """paths: files, directories or globs, relative to the recipe. suffixes: which files of a directory or glob count.
    document: what one document is. longest: refuse documents above this size."""

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        suffixes: list[str] | None = None,
        document: Literal["file", "line", "blank_line"] = "file",
        longest: Bytes = "256 MiB",
    ):
        self.folder, self.paths, self.suffixes, self.document, self.longest = Path(folder), paths, suffixes, document, int(longest.value)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])

    def shards(self) -> list[Shard]:
        """Raises UserError for missing, unreadable or empty input."""
        separator = {"file": None, "line": b"\n", "blank_line": b"\n\n"}[self.document]
        read = {"file": self._file, "line": self._lines, "blank_line": self._paragraphs}[self.document]
        files = find_files(self.folder, self.paths, self.suffixes)
        return file_shards(files, separator=separator, settings=("text_files", 1, self.document), read=read)

    def _file(self, item: Range) -> Iterator[Document]:
        pieces, size = [], 0
        for block in blocks(item):
            pieces.append(block)
            size += len(block)
            if size > self.longest:
                raise bad(
                    item.path,
                    f"is longer than {self.longest:,} bytes as one document; set 'document' to line or blank_line, or raise 'longest'",
                )
        text = decode(b"".join(pieces), lambda offset: str(item.path))
        yield Document(text_id(text), text)

    def _texts(self, item: Range) -> Iterator[str]:
        for index, offset, line in lines(item, self.longest):
            yield decode(line, lambda _, index=index: f"{item.path}:{line_number(item, index)}", offset)

    def _lines(self, item: Range) -> Iterator[Document]:
        for text in self._texts(item):
            if text.strip():
                yield Document(text_id(text), text)

    def _paragraphs(self, item: Range) -> Iterator[Document]:
        held: list[str] = []
        size = 0
        for number, text in enumerate(self._texts(item)):
            if text.strip():
                held.append(text)
                size += len(text)
                if size > self.longest:
                    raise bad(
                        f"{item.path}:{line_number(item, number)}", f"the paragraph is longer than {self.longest:,} bytes; raise 'longest'"
                    )
            elif held:
                yield _joined(held)
                held, size = [], 0
        if held:
            yield _joined(held)


def _joined(held: list[str]) -> Document:
    text = "\n".join(held)
    return Document(text_id(text), text)
