"""The rows of a stage, by number: which source, which of its rows in which epoch's order. A pure function of (seed, row)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import UserError
from .mix import Mixture
from .order import Permutation, seed_of


class Stream:
    """Sources by name (anything with ``len`` and ``rows(ids, numbers)``), mixed, each reshuffled every epoch by (seed, name, epoch).

    rows_per_epoch: rows of all sources together. ``end``: the row after the last where epochs are capped, else None.
    """

    def __init__(self, sources: Mapping[str, Any], seed: int, mixture: Mixture | None = None):
        empty = [name for name, source in sources.items() if not len(source)]
        if empty or not sources:
            raise UserError(f"data source {', '.join(empty) or '(none)'} has no rows")
        self.sources, self.seed = dict(sources), seed
        self.source_names = list(sources)
        self._lengths = np.array([len(source) for source in sources.values()], dtype=np.int64)
        self.mixture = mixture or Mixture([0], [self._lengths.tolist()])
        self.rows_per_epoch = int(self._lengths.sum())
        self.end = self.mixture.end
        self._orders: dict[tuple[int, int], Permutation] = {}

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B,) source, (B,) epoch of that source, (B,) row within it."""
        source, ordinal = self.mixture.locate(rows)
        epoch, index = np.divmod(ordinal, self._lengths[source])
        ids = np.empty_like(index)
        key = epoch * len(self._lengths) + source
        for value in np.unique(key).tolist():
            here = key == value
            ids[here] = self._order(value % len(self._lengths), value // len(self._lengths))(index[here])
        return source, epoch, ids

    def batch(self, start: int, count: int) -> dict[str, np.ndarray]:
        """Rows start to start + count - 1: rows, source (B,) and what the sources give, (B, ...)."""
        return self.take(np.arange(start, start + count, dtype=np.int64))

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Any rows by number, in the order given."""
        source, _, ids = self.locate(rows)
        result: dict[str, np.ndarray] = {"rows": rows, "source": source}
        for k in np.unique(source).tolist():
            here = np.flatnonzero(source == k)
            part = self.sources[self.source_names[k]].rows(ids[here], rows[here])
            if len(here) == len(rows):
                return result | part
            self._merge(result, part, here, k)
        return result

    def _merge(self, result: dict[str, np.ndarray], part: Mapping[str, np.ndarray], here: np.ndarray, k: int) -> None:
        filled = set(result) - {"rows", "source"}
        if filled and filled != set(part):
            raise UserError(f"data source {self.source_names[k]} gives {', '.join(sorted(part))}; others give {', '.join(sorted(filled))}: they cannot be mixed")
        for key, values in part.items():
            if key not in result:
                result[key] = np.zeros((len(result["rows"]), *values.shape[1:]), dtype=values.dtype)
            if result[key].shape[1:] != values.shape[1:]:
                raise UserError(f"data source {self.source_names[k]} gives {key} of shape {values.shape[1:]}, others {result[key].shape[1:]}: they cannot be mixed")
            result[key][here] = values

    def _order(self, source: int, epoch: int) -> Permutation:
        key = (source, epoch)
        if key not in self._orders:
            while len(self._orders) >= 4 * len(self._lengths):
                del self._orders[next(iter(self._orders))]
            self._orders[key] = Permutation(int(self._lengths[source]), seed_of(self.seed, self.source_names[source], epoch))
        return self._orders[key]

    def epochs(self, row: int) -> float:
        """Position in epochs: rows given over rows there are."""
        return row / self.rows_per_epoch

    def source_epochs(self, row: int) -> dict[str, float]:
        """Epochs each source has been through before a row."""
        return dict(zip(self.source_names, (self.mixture.counts(row) / self._lengths).tolist()))
