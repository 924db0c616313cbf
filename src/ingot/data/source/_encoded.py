"""Values encoded in a column of parquet files (sounds, images): files' bytes as they are, or records with a field ``bytes`` as Hugging
Face data sets keep them. Rows are found through the row groups, which are read when one of their rows is asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.resolve import nearest
from ..rows import BadRow
from ._files import bad, find_files
from ._fingerprint import Range, fingerprints
from .parquet import _line, _opened


class EncodedColumn:
    """what: the values' name for people, such as "image". beside: columns that are read at once, by name. most: only the first rows of
    each file. hold: bytes of encoded values that are kept."""

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str],
        column: str,
        what: str,
        *,
        beside: Iterable[str] = (),
        most: int | None = None,
        hold: float = 2**31,
    ):
        self.column, self.what, self.hold = column, what, hold
        self.files = find_files(Path(folder), paths, [".parquet"])
        self.groups: list[tuple[Path, int, int, int]] = []  # file, row group, first row in the file, rows
        self.beside: dict[str, list[Any]] = {name: [] for name in beside}
        for path in self.files:
            self._index(path, most)
        self.starts = np.cumsum([0, *(count for *_, count in self.groups)])
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def identity(self) -> list[str]:
        """The files' content."""
        return fingerprints([Range(path, 0, path.stat().st_size) for path in self.files])

    def _index(self, path: Path, most: int | None) -> None:
        with _opened(path) as file:
            names = file.schema_arrow.names
            for name in (self.column, *self.beside):
                if name not in names:
                    raise bad(path, f"has no column {name!r}; it has {', '.join(names)}. {nearest(name, names)}".strip())
            left, first = file.metadata.num_rows if most is None else most, 0
            for group in range(file.metadata.num_row_groups):
                count = min(left, file.metadata.row_group(group).num_rows)
                if count > 0:
                    self.groups.append((path, group, first, count))
                first, left = first + count, left - count
            table = file.read(columns=list(self.beside)) if self.beside else None
        for name, values in self.beside.items():
            values += table.column(name).slice(0, first).to_pylist()

    def _place(self, row: int) -> tuple[int, int]:
        """Row group, and row within it."""
        at = int(np.searchsorted(self.starts, row, side="right")) - 1
        return at, row - int(self.starts[at])

    def where(self, row: int) -> str:
        """File and row, for people."""
        at, within = self._place(row)
        path, _, first, _ = self.groups[at]
        return f"{path} row {first + within}"

    def value(self, row: int) -> bytes:
        """The encoded bytes. Raises BadRow where there are none, UserError where the column does not hold bytes at all."""
        at, within = self._place(row)
        found = self._group(at)[within].as_py()
        data = found.get("bytes") if isinstance(found, dict) else found
        if data is not None and not isinstance(data, bytes):
            raise UserError(
                f"{self.where(row)}: column {self.column!r} wants the bytes of a file of one {self.what}, got {type(data).__name__}"
            )
        if not data:
            raise BadRow(f"column {self.column!r} holds no {self.what}")
        return data

    def _group(self, at: int) -> Any:
        """The column in a row group, kept while there is room."""
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
            while len(self._held) > 1 and sum(item.nbytes for item in self._held.values()) > self.hold:
                self._held.popitem(last=False)
        return column
