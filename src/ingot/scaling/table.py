"""Tables of measurements: columns by name, read from csv, named and filtered the way the laws expect."""

from __future__ import annotations

import csv
import gzip
import operator
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError

Table = dict[str, np.ndarray]
COMPARE = {">=": operator.ge, "<=": operator.le, "!=": operator.ne, "=": operator.eq, ">": operator.gt, "<": operator.lt}


def read(path: str | Path) -> Table:
    """A csv file (also .gz) with a header. Columns that are all numbers or empty become float, others text."""
    path = Path(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if len(rows) < 2:
        raise UserError(f"{path} has no rows")
    head, *body = rows
    if wrong := next((number for number, row in enumerate(body, 2) if len(row) != len(head)), None):
        raise UserError(f"{path}:{wrong}: wants {len(head)} values, as the header has")
    return {name: _column(values) for name, values in zip(head, zip(*body))}


def _column(values: Iterable[str]) -> np.ndarray:
    values = list(values)
    try:
        return np.array([float(value) if value.strip() else np.nan for value in values])
    except ValueError:
        return np.array(values)


def rename(table: Table, columns: Mapping[str, str]) -> Table:
    """Add columns. Each value is a column, or a product and quotient of columns and numbers: ``flop/6/params``."""
    return table | {name: _expression(table, text) for name, text in columns.items()}


def _expression(table: Table, text: str) -> np.ndarray:
    if text in table:
        return table[text]
    size = len(next(iter(table.values())))
    total, sign = np.ones(size), "*"
    for token in re.split(r"([*/])", text):
        word = token.strip()
        if word in "*/" and word:
            sign = word
            continue
        try:
            value = np.full(size, float(word))
        except ValueError:
            if word not in table:
                raise UserError(f"no column {word!r} in {text!r}; there are {', '.join(table)}") from None
            value = np.asarray(table[word])
            if value.dtype.kind != "f":
                raise UserError(f"column {word!r} is text, so it cannot be part of {text!r}") from None
        total = total * value if sign == "*" else total / value
    return total


def where(table: Table, conditions: Iterable[str]) -> Table:
    """Rows that meet every condition, written ``column op value`` with op one of = != < > <= >=."""
    for condition in conditions:
        match = re.match(r"^\s*(.+?)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*$", condition)
        if match is None or match[1] not in table:
            raise UserError(f"wants COLUMN=VALUE (or !=, <, >, <=, >=) with a column of {', '.join(table)}; got {condition!r}")
        column = table[match[1]]
        try:
            value: Any = float(match[3]) if column.dtype.kind == "f" else match[3]
        except ValueError:
            raise UserError(f"{match[1]} holds numbers, {match[3]!r} is none") from None
        table = take(table, COMPARE[match[2]](column, value))
        if len(column) and not len(table[match[1]]):
            raise UserError(f"no row meets {condition!r}")
    return table


def take(table: Mapping[str, Any], rows: Any) -> Table:
    """The chosen rows (mask or positions)."""
    return {name: np.asarray(column)[rows] for name, column in table.items()}


def size(table: Mapping[str, Any]) -> int:
    """Number of rows."""
    return len(np.asarray(next(iter(table.values()))))
