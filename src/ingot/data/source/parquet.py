"""Parquet files with the text in one column; each row a document.

Row groups are read one by one. A shard is a run of row groups; its identity hashes the bytes of the columns that are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import missing_extra
from ...core.parts import part
from ...core.resolve import nearest
from ...core.seams import Document, Shard
from ._files import SHARD_BYTES, SizedShard, absent, bad, document_id, find_files
from ._fingerprint import Range, digest, fingerprints


@part
class Parquet:
    """paths: files, directories or globs, relative to the recipe. column: where the text is. id: the column of document ids; a null
    stands for the text."""

    def __init__(self, folder: Path, *, paths: list[str], column: str = "text", id: str | None = None, suffixes: list[str] = [".parquet"]):
        self.folder, self.paths, self.column, self.id, self.suffixes = Path(folder), paths, column, id, suffixes

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])

    def shards(self) -> list[Shard]:
        """Raises UserError for missing, damaged or empty input, and for a missing column."""
        files = find_files(self.folder, self.paths, self.suffixes)
        runs = [run for path in files for run in self._runs(path)]
        if not runs:
            raise bad(files[0] if len(files) == 1 else self.folder, "the corpus is empty: no file has a row")
        hashes = iter(fingerprints([item for _, _, ranges in runs for item in ranges]))
        return [
            SizedShard(
                f"{path} row groups {groups[0]} to {groups[-1]}",
                digest("parquet", 1, [next(hashes) for _ in ranges]),
                partial(self._read, path, groups),
                sum(item.size for item in ranges),
            )
            for path, groups, ranges in runs
        ]

    def _runs(self, path: Path) -> Iterator[tuple[Path, list[int], list[Range]]]:
        """Runs of row groups of bounded size, with the bytes of their columns."""
        with _opened(path) as file:
            meta = file.metadata
            wanted = [self._column(path, meta, name) for name in (self.column, self.id) if name]
            groups: list[int] = []
            ranges: list[Range] = []
            size = 0
            for group in range(meta.num_row_groups):
                columns = [meta.row_group(group).column(index) for index in wanted]
                if meta.row_group(group).num_rows:
                    groups.append(group)
                    ranges += [_bytes_of(path, column) for column in columns]
                    size += sum(column.total_uncompressed_size for column in columns)
                if groups and (size >= SHARD_BYTES or group == meta.num_row_groups - 1):
                    yield path, groups, ranges
                    groups, ranges, size = [], [], 0

    def _column(self, path: Path, meta: Any, name: str) -> int:
        names = [meta.schema.column(index).path for index in range(meta.num_columns)]
        if name not in names:
            raise bad(path, f"has no column {name!r}; it has {', '.join(names) or 'none'}. {nearest(name, names)}".strip())
        return names.index(name)

    def _read(self, path: Path, groups: list[int]) -> Iterator[Document]:
        columns = [self.column, *([self.id] if self.id and self.id != self.column else [])]
        with _opened(path) as file:
            row = sum(file.metadata.row_group(group).num_rows for group in range(groups[0]))
            try:
                for batch in file.iter_batches(row_groups=groups, columns=columns, batch_size=1024):
                    ids = batch.column(self.id).to_pylist() if self.id else None
                    for index, text in enumerate(batch.column(self.column).to_pylist()):
                        if not isinstance(text, str):
                            raise bad(path, f"row {row + index}: column {self.column!r} wants text, got {type(text).__name__}")
                        yield Document(document_id(ids[index] if ids else None, text), text)
                    row += len(batch)
            except (OSError, ValueError) as error:
                raise bad(path, f"is damaged near row {row}: {_line(error)}") from None


def _bytes_of(path: Path, column: Any) -> Range:
    start = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    return Range(path, start, start + column.total_compressed_size)


def _opened(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "data") from None
    try:
        return pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    except (OSError, ValueError) as error:
        raise bad(path, f"is not a whole parquet file: {_line(error)}") from None


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
