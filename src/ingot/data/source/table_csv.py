r"""Rows of tables from csv files with a header: numeric and categorical columns, and a target.

    numbers = (value - mean) / deviation, 0 where missing        categories = 1 + place among the column's values, 0 where missing or new

Means, deviations and the values of categorical columns come from the rows that ``like`` and ``fit`` name, which are those a model is
trained on, so that a held-out part is read as training rows are (Gorishniy et al. 2021, arXiv:2106.11959, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...core.parts import Fraction, Positive, part
from ...core.seams import Field
from ..rows import BadRow, Row, Rows
from ._csv import BLANK, Table, ordered, read, some, span, standard
from ._files import absent, bad, find_files
from ._fingerprint import Range, digest, fingerprints
from .series_csv import Span


@part
class TableCSV(Rows):
    """numeric, categorical: columns. label: column of classes, their names in the order of the alphabet; values: columns of numbers to
    predict, as they are. part: rows [start, end) of each file, shares where both are at most 1. like: files that are learned from, these
    when not given; fit: which of their rows. skip: share of rows that may hold something that is no number. blank: what stands for a
    missing value. classes, widest: how many classes and most values of a column, where a recipe must be planned without its files."""

    threads = False

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        numeric: list[str] = [],
        categorical: list[str] = [],
        label: str | None = None,
        values: list[str] = [],
        part: Span = (0.0, 1.0),
        like: list[str] | None = None,
        fit: Span = (0.0, 1.0),
        skip: Fraction = 0.0,
        blank: list[str] = list(BLANK),
        delimiter: str = ",",
        classes: Positive[int] | None = None,
        widest: Positive[int] | None = None,
    ):
        super().__init__(skip=skip)
        self.numeric, self.categorical, self.label, self.targets, self.blank = numeric, categorical, label, values, set(blank)
        files = find_files(Path(folder), paths, [".csv"])
        tables = {path: read(path, delimiter) for path in sorted({*files, *(find_files(Path(folder), like, [".csv"]) if like else [])})}
        known = [tables[path] for path in (find_files(Path(folder), like, [".csv"]) if like else files)]
        self.tables = [tables[path] for path in files]
        self._learn(known, fit)
        self.classes = self._count("label", label, len(self.names), classes) if label else None
        self.widest = self._count("a categorical column", None, max((len(place) for place in self.places), default=0) + 1, widest)
        self.index = [(number, row) for number, table in enumerate(self.tables) for row in range(*span(part, len(table.rows)))]
        some(len(self.index), "part", part, self.tables)
        self.own = like is None
        self.identity = digest(
            "table_csv",
            1,
            fingerprints([Range(path, 0, path.stat().st_size) for path in tables]),
            numeric,
            categorical,
            label,
            values,
            part,
            like,
            fit,
            sorted(blank),
            *([["paths", [list(tables).index(path) for path in files]]] if like else []),
        )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, [*knobs["paths"], *(knobs["like"] or [])])
        yield from ordered(knobs, ("part", "fit"))
        if not knobs["numeric"] and not knobs["categorical"]:
            yield "names no column: set numeric, categorical or both"
        named = [*knobs["numeric"], *knobs["categorical"], *knobs["values"], *filter(None, [knobs["label"]])]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            yield f"uses {', '.join(twice)} twice; a column is numeric, categorical or a target"

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field] | None:
        """What the recipe alone says."""
        if (knobs["label"] and knobs["classes"] is None) or (knobs["categorical"] and knobs["widest"] is None):
            return None
        return table_fields(
            len(knobs["numeric"]),
            len(knobs["categorical"]),
            knobs["widest"] or 1,
            knobs["classes"] if knobs["label"] else None,
            len(knobs["values"]),
        )

    def _learn(self, tables: list[Table], fit: tuple[float, float]) -> None:
        """Mean and deviation of numeric columns, values of categorical ones, names of classes."""
        self.read: dict[Path, tuple[np.ndarray, dict[int, str]]] = {}
        names: set[str] = set()
        for table in tables:
            names |= set(table.texts(self.label)) - self.blank if self.label else set()
        self.names = sorted(names, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name))
        self.fitted = [(table, np.arange(*span(fit, len(table.rows)))) for table in tables]
        some(sum(len(rows) for _, rows in self.fitted), "fit", fit, tables)
        for table in self.tables:
            for column in [*self.categorical, *filter(None, [self.label])]:
                table.place(column)
            self._numbers(table)
        self._fit(self.fitted)

    def _fit(self, chosen: list[tuple[Table, np.ndarray]]) -> None:
        """From rows of tables: mean and deviation of numeric columns, values of categorical ones."""
        self.mean, self.std = standard(np.concatenate([self._numbers(table)[0][rows] for table, rows in chosen])[:, : len(self.numeric)])
        seen = [{texts[row] for table, rows in chosen for texts in [table.texts(column)] for row in rows} for column in self.categorical]
        self.places = [{value: number for number, value in enumerate(sorted(values - self.blank), 1)} for values in seen]

    @property
    def learned(self) -> list[Any]:
        """What numbers are scaled and categories numbered by; sources that are read together want the same."""
        return [self.numeric, self.mean.tolist(), self.std.tolist(), self.categorical, self.places]

    def trained_on(self, ids: np.ndarray) -> None:
        """Only these rows are trained on, the others held out: nothing is learned from those. Without effect where ``like`` says from what."""
        if self.own:
            kept = {self.index[i] for i in ids.tolist()}
            self._fit([(table, np.array([row for row in rows if (n, row) in kept], int)) for n, (table, rows) in enumerate(self.fitted)])

    def _numbers(self, table: Table) -> tuple[np.ndarray, dict[int, str]]:
        """Of numeric columns and targets, read once."""
        if table.path not in self.read:
            self.read[table.path] = table.numbers([*self.numeric, *self.targets], list(self.blank))
        return self.read[table.path]

    def _count(self, what: str, column: str | None, found: int, said: int | None) -> int:
        if said is not None and found > said:
            raise bad(self.tables[0].path, f"{what} {column or ''} has {found} values, the recipe says {said}".replace("  ", " "))
        return said or found

    def stored(self) -> dict[str, Field]:
        return table_fields(len(self.numeric), len(self.categorical), self.widest, self.classes, len(self.targets))

    def __len__(self) -> int:
        return len(self.index)

    def where(self, index: int) -> str:
        number, row = self.index[index]
        return self.tables[number].where(row)

    def row(self, index: int) -> Row:
        """numbers, numbers_missing, categories, label, values. Raises BadRow."""
        number, at = self.index[index]
        table = self.tables[number]
        values, wrong = self._numbers(table)
        if at in wrong:
            raise BadRow(wrong[at])
        row: Row = {}
        if self.numeric:
            found = values[at, : len(self.numeric)]
            missing = np.isnan(found)
            row |= {"numbers": np.where(missing, 0.0, (found - self.mean) / self.std).astype(np.float32), "numbers_missing": missing}
        cells = table.rows[at]
        if self.categorical:
            row["categories"] = np.array(
                [place.get(cells[table.place(column)], 0) for column, place in zip(self.categorical, self.places, strict=True)]
            )
        if self.label:
            text = cells[table.place(self.label)]
            if text not in self.names and text not in self.blank:
                raise BadRow(f"column {self.label!r} holds {text!r}, a class that no training row has")
            row["label"] = self.names.index(text) if text in self.names else -100
        return row | ({"values": values[at, len(self.numeric) :].astype(np.float32)} if self.targets else {})


def table_fields(numbers: int, categories: int, widest: int, classes: int | None, values: int) -> dict[str, Field]:
    """Of a row of a table. widest: most values of a categorical column, the missing one included."""
    fields = {"numbers": Field((numbers,)), "numbers_missing": Field((numbers,), "bool")} if numbers else {}
    fields |= {"categories": Field((categories,), "int64", widest)} if categories else {}
    fields |= {"label": Field((), "int64", classes)} if classes else {}
    return fields | ({"values": Field((values,))} if values else {})
