"""A data set of the Hugging Face ``datasets`` library: a folder it saved, or a name on the hub.

Rows are read in order through its memory-mapped table. A shard is a run of rows; its identity hashes their texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import missing_extra
from ...core.parts import part
from ...core.resolve import nearest
from ...core.seams import Document, Shard
from ._files import SHARD_BYTES, SizedShard, bad, document_id
from ._fingerprint import digest

_ROWS = 1024


@part
class HuggingFace:
    """path: folder relative to the recipe, or a hub name. split: which split. column: where the text is. id: the column of document
    ids. subset: the hub's configuration name."""

    def __init__(
        self, folder: Path, *, path: str, split: str = "train", column: str = "text", id: str | None = None, subset: str | None = None
    ):
        self.folder, self.path, self.split, self.column, self.id, self.subset = Path(folder), path, split, column, id, subset

    def shards(self) -> list[Shard]:
        """Raises UserError for a missing data set, split or column, and for one without rows."""
        rows = self._open()
        if not len(rows):
            raise bad(self.path, f"split {self.split!r} has no rows")
        for name in (self.column, self.id):
            if name and name not in rows.column_names:
                near = nearest(name, rows.column_names)
                raise bad(self.path, f"has no column {name!r}; it has {', '.join(rows.column_names)}. {near}".strip())
        table = rows.select_columns(list(dict.fromkeys(name for name in (self.column, self.id) if name)))
        return list(self._cut(table))

    def _open(self) -> Any:
        try:
            import datasets
        except ImportError:
            raise missing_extra("datasets", "hf") from None
        place = self.folder / Path(self.path).expanduser()
        try:
            found = (
                datasets.load_from_disk(str(place)) if place.is_dir() else datasets.load_dataset(self.path, self.subset, split=self.split)
            )
        except Exception as error:  # the library raises many kinds, its own and its dependencies'
            raise bad(self.path, f"cannot be opened as a data set: {str(error).partition(chr(10))[0]}") from None
        if isinstance(found, datasets.DatasetDict):
            if self.split not in found:
                raise bad(self.path, f"has no split {self.split!r}; it has {', '.join(found)}")
            found = found[self.split]
        return found

    def _cut(self, table: Any) -> Iterator[Shard]:
        start, size, state = 0, 0, hashlib.blake2b(digest_size=20)
        for at in range(0, len(table), _ROWS):
            for document in self._read(table, at, min(at + _ROWS, len(table))):
                for text in (document.id, document.text):
                    data = text.encode("utf-8", "surrogatepass")
                    state.update(len(data).to_bytes(8, "little"))
                    state.update(data)
                size += len(document.text)
            stop = min(at + _ROWS, len(table))
            if size >= SHARD_BYTES or stop == len(table):
                yield SizedShard(
                    f"{self.path} rows {start} to {stop - 1}",
                    digest("huggingface", 1, state.hexdigest()),
                    partial(self._read, table, start, stop),
                    size,
                )
                start, size, state = stop, 0, hashlib.blake2b(digest_size=20)

    def _read(self, table: Any, start: int, stop: int) -> Iterator[Document]:
        for at in range(start, stop, _ROWS):
            rows = table[at : min(at + _ROWS, stop)]
            for index, text in enumerate(rows[self.column]):
                if not isinstance(text, str):
                    raise bad(self.path, f"row {at + index}: column {self.column!r} wants text, got {type(text).__name__}")
                yield Document(document_id(rows[self.id][index] if self.id else None, text), text)
