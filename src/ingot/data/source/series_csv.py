r"""Windows of multivariate time series from csv files with a header, one row a moment, in order of time.

    series_w = rows [t - look_back, t)      future_w = rows [t, t + horizon)      t = first + w stride

Every channel is brought to (value - mean) / deviation of the rows named by ``standardize``, those a model is trained on. What is to be
forecast lies within ``part``; what it is forecast from may reach into the rows before it, as is the custom on ETT (Zhou et al. 2020,
arXiv:2012.07436). Windows never cross files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.parts import Fraction, NonNegative, Positive, part
from ...core.seams import Field
from ..rows import Row, Rows
from ._csv import BLANK, Table, ordered, read, some, span, standard
from ._files import absent, bad, find_files
from ._fingerprint import Range, digest, fingerprints
from ._images import classified, spelled

Span = tuple[NonNegative[float], Positive[float]]


@part
class SeriesCSV(Rows):
    """look_back, horizon: rows read and forecast. stride: rows from one window to the next. columns: the channels; every column whose
    first value is a number, when not given. label: column whose value in the last row read is the window's class; classes: how many.

    part: rows [start, end) of each file, shares of its rows where both numbers are at most 1. standardize: rows that mean and deviation
    come from, in the same way; no scaling when not given. missing: the largest share of values that may be blank: those are 0 and marked
    in ``observed`` and ``future_observed``, and counted in the ledger; 0 refuses the first. blank: what stands for a missing value.
    """

    threads = False

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        look_back: Positive[int],
        horizon: NonNegative[int] = 0,
        stride: Positive[int] = 1,
        columns: list[str] | None = None,
        label: str | None = None,
        classes: Positive[int] | None = None,
        part: Span = (0.0, 1.0),
        standardize: Span | None = None,
        missing: Fraction = 0.0,
        blank: list[str] = list(BLANK),
        delimiter: str = ",",
    ):
        super().__init__()
        self.look_back, self.horizon, self.missing = look_back, horizon, missing
        self._lost: list[dict[str, Any]] = []
        tables = [read(path, delimiter) for path in find_files(Path(folder), paths, [".csv"])]
        self.tables = tables
        self.columns = columns or [name for name in tables[0].names if name != label and _number(tables[0].texts(name)[0])]
        if not self.columns:
            raise bad(tables[0].path, "has no column of numbers; name them in columns")
        values = [self._values(table, blank) for table in tables]
        # Files, and what their columns are scaled by: mean and deviation. Sources that read the same files want the same.
        self.scaled = [table.path for table in tables], dict.fromkeys(self.columns, (0.0, 1.0))
        if standardize is not None:
            rows = np.concatenate([value[slice(*span(standardize, len(value)))] for value in values])
            some(len(rows), "standardize", standardize, tables)
            mean, std = standard(rows)
            values = [(value - mean) / std for value in values]
            self.scaled[1].update(zip(self.columns, zip(mean.tolist(), std.tolist(), strict=True), strict=True))
        self.there = [np.isfinite(value) for value in values]
        self.values = [np.where(there, value, 0.0).astype(np.float32) for there, value in zip(self.there, values, strict=True)]
        self._label(label, classes, blank)
        self.starts = self._starts(part, stride)
        self.identity = digest(
            "series_csv",
            1,
            fingerprints([Range(item.path, 0, item.path.stat().st_size) for item in tables]),
            self.columns,
            look_back,
            horizon,
            stride,
            part,
            standardize,
            missing,
            label,
            *([["blank", sorted(blank)]] if set(blank) != set(BLANK) else []),
        )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])
        yield from ordered(knobs, ("part", "standardize"))

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field] | None:
        """What the recipe alone says."""
        if knobs["columns"] is None or (knobs["label"] and knobs["classes"] is None):
            return None
        return window_fields(
            knobs["look_back"], knobs["horizon"], len(knobs["columns"]), knobs["missing"] > 0, knobs["classes"] if knobs["label"] else None
        )

    @staticmethod
    def overlap(knobs: dict[str, Any]) -> bool:
        """Whether a moment stands in several windows."""
        return bool(knobs["stride"] < knobs["look_back"] + knobs["horizon"])

    def _values(self, table: Table, blank: list[str]) -> np.ndarray:
        """(rows, C), NaN where missing. Raises UserError naming file and line."""
        found, wrong = table.numbers(self.columns, blank)
        if wrong:
            index = min(wrong)
            raise bad(table.where(index), wrong[index])
        lost = np.argwhere(np.isnan(found))
        if len(lost) > self.missing * found.size:
            index, column = lost[0]
            more = f"; {len(lost)} of {found.size} values are missing, more than missing allows ({self.missing:g})"
            raise bad(table.where(int(index)), f"column {self.columns[column]!r} is empty{more}")
        if len(lost):
            index, column = lost[0]
            first = f"the first is column {self.columns[column]!r} of line {table.lines[int(index)]}"
            words = f"{table.path}: {len(lost)} of {found.size} values are missing and marked as not observed; {first}"
            self._lost.append({"name": "missing", "message": words, "missing": len(lost)})
        return found

    def notices(self) -> list[dict[str, Any]]:
        """Of every file with missing values how many there are, once."""
        fresh = self._lost.copy()
        self._lost.clear()  # in place: copies of this source share the list, and say it once between them
        return [*fresh, *super().notices()]

    def _label(self, column: str | None, classes: int | None, blank: list[str]) -> None:
        self.labels: list[np.ndarray] | None = None
        self.names: list[str] = []
        self.classes: int | None = None
        if column is None:
            return
        texts = [table.texts(column) for table in self.tables]
        known = [(text, table, row) for table, piece in zip(self.tables, texts) for row, text in enumerate(piece) if text not in blank]
        if not known:
            raise bad(self.tables[0].path, f"column {column!r} names no class")
        words = [text for text, _, _ in known]
        numbers, self.names, self.classes = classified(
            spelled(words), classes, f"column {column!r}", lambda index: known[index][1].where(known[index][2])
        )
        place = dict(zip(words, numbers.tolist(), strict=True))
        self.labels = [np.array([place.get(text, -100) for text in piece], dtype=np.int64) for piece in texts]

    def _starts(self, part: tuple[float, float], stride: int) -> np.ndarray:
        """(windows, 2): file, and the row after the last that is read."""
        found = []
        for number, values in enumerate(self.values):
            start, end = span(part, len(values))
            first = max(start, self.look_back) if self.horizon else start + self.look_back
            found += [(number, t) for t in range(first, end - self.horizon + 1, stride)]
        if not found:
            raise UserError(
                f"data: no window of {self.look_back} and {self.horizon} rows fits into rows {list(part)} of {self.tables[0].path}, which has {len(self.values[0])}"
            )
        return np.array(found)

    def stored(self) -> dict[str, Field]:
        return window_fields(self.look_back, self.horizon, len(self.columns), self.missing > 0, self.classes)

    def __len__(self) -> int:
        return len(self.starts)

    def where(self, index: int) -> str:
        number, t = self.starts[index].tolist()
        table = self.tables[number]
        return f"{table.path}:{table.lines[t - self.look_back]} to {table.lines[t - 1]}"

    def row(self, index: int) -> Row:
        """series (L, C), future (H, C), what of them was observed, label."""
        number, t = self.starts[index].tolist()
        values, there = self.values[number], self.there[number]
        row: Row = {"series": values[t - self.look_back : t]}
        if self.missing > 0:
            row["observed"] = there[t - self.look_back : t]
        if self.horizon:
            row["future"] = values[t : t + self.horizon]
        if self.horizon and self.missing > 0:
            row["future_observed"] = there[t : t + self.horizon]
        return row if self.labels is None else row | {"label": int(self.labels[number][t - 1])}


def window_fields(look_back: int, horizon: int, channels: int, missing: bool, classes: int | None = None) -> dict[str, Field]:
    """Of a window."""
    fields = {"series": Field((look_back, channels))} | ({"observed": Field((look_back, channels), "bool")} if missing else {})
    if horizon:
        fields |= {"future": Field((horizon, channels))} | ({"future_observed": Field((horizon, channels), "bool")} if missing else {})
    return fields | ({"label": Field((), "int64", classes)} if classes else {})


def _number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
