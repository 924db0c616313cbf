"""Comma-separated files with a header, read whole: columns of text by name, with the line that each row stands in."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.resolve import nearest
from ._files import bad

BLANK = ("", "?", "NA", "NaN", "nan", "null")
LONGEST = 1 << 28  # bytes of a line, and of a cell


@dataclass
class Table:
    """rows: cells of every row, as many as the header has names. lines: line of each row in the file, from 1."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]

    def place(self, column: str) -> int:
        """Index of a column. Raises UserError with the nearest name."""
        if column not in self.names:
            raise bad(self.path, f"has no column {column!r}; it has {', '.join(self.names)}. {nearest(column, self.names)}".strip())
        return self.names.index(column)

    def texts(self, column: str) -> list[str]:
        """One column's cells."""
        place = self.place(column)
        return [row[place] for row in self.rows]

    def numbers(self, columns: Sequence[str], blank: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """(rows, columns) float64, NaN where a cell is blank, and row -> what is wrong with it, for cells that are no numbers."""
        found = np.full((len(self.rows), len(columns)), np.nan)
        wrong: dict[int, str] = {}
        missing = set(blank)
        for k, column in enumerate(columns):
            for index, text in enumerate(self.texts(column)):
                if text in missing:
                    continue
                try:
                    found[index, k] = float(text)
                except ValueError:
                    wrong.setdefault(index, f"column {column!r} holds {text[:40]!r}, which is no number")
                    continue
                if not np.isfinite(found[index, k]):
                    found[index, k] = np.nan
                    wrong.setdefault(index, f"column {column!r} holds {text!r}, which is not finite")
        return found, wrong

    def where(self, index: int) -> str:
        """File and line, for people."""
        return f"{self.path}:{self.lines[index]}"


def read(path: Path, delimiter: str = ",") -> Table:
    """Raises UserError for a file without header or rows, with a name twice, or with a row of another length (file and line).

    Between tabs quotes mean nothing, as in most files that are so written: a line is a row, whatever it holds. Cells that are quoted all
    the same, as pandas and R write them, lose their quotes.
    """
    csv.field_size_limit(LONGEST)
    tabs = delimiter == "\t"
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    reader: Any = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
            for row in reader:
                cells = [_unquoted(cell.strip()) if tabs else cell.strip() for cell in row]
                if not names:
                    names = cells
                elif len(cells) == len(names):
                    rows.append(cells)
                    lines.append(reader.line_num)
                elif cells:
                    raise bad(f"{path}:{reader.line_num}", f"has {len(cells)} cells, the header names {len(names)} columns")
    except csv.Error as error:
        raise bad(f"{path}:{reader.line_num if reader else 1}", f"cannot be read as csv: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise bad(path, f"cannot be read as csv: {error}") from None
    if len(set(names)) < len(names) or not names:
        raise bad(path, "names a column twice in its header" if names else "is empty")
    if not rows:
        raise bad(path, "holds a header and no row")
    return Table(path, names, rows, lines)


def _unquoted(cell: str) -> str:
    """A cell without the quotes around all of it, where those within are doubled."""
    inner = cell[1:-1]
    return inner.replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "") else cell


def span(part: tuple[float, float], rows: int) -> tuple[int, int]:
    """Rows [start, end) of a file: shares of its rows where both numbers are at most 1, else row numbers."""
    start, end = (round(share * rows) for share in part) if max(part) <= 1 else (int(part[0]), min(int(part[1]), rows))
    return start, end


def some(rows: int, knob: str, part: tuple[float, float], tables: Sequence[Table]) -> None:
    """Raises UserError where a part of files holds none of their rows."""
    if not rows:
        raise bad(tables[0].path, f"no row is in {knob} {list(part)}; it has {len(tables[0].rows)} rows")


def ordered(knobs: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    """What is wrong with parts of a file that a recipe gives as [start, end)."""
    for name in names:
        if knobs[name] is not None and knobs[name][0] >= knobs[name][1]:
            yield f"{name} wants a start below its end, got {list(knobs[name])}"


def standard(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every column over what is there; 1 for a deviation of 0, or of what rounding makes of it."""
    there = np.isfinite(values)
    count = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, values, 0).sum(axis=0) / count
    std = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(axis=0) / count)
    size = np.abs(np.where(there, values, 0)).max(axis=0, initial=0)
    return mean, np.where(std > 1e-9 * size, std, 1.0)
