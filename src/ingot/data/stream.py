"""The rows of a stage, by number: which source, which of its rows in which epoch's order. A pure function of (seed, row)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.seams import Field
from .mix import Mixture
from .order import Grouped, Permutation, seed_of
from .rows import mixed_fields

# What stands for "nothing here" in rows of a source that does not give a key which others give (core/seams.py); elsewhere it is 0.
ABSENT = {
    **dict.fromkeys(("label", "label_other", "transcript", "codes"), -100),
    **dict.fromkeys(("observed", "future_observed"), True),
    "label_share": 1.0,
    "values": np.nan,
}


def absent(key: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Rows that have nothing under a key."""
    return np.full(shape, ABSENT.get(key, 0), dtype=dtype)


class Stream:
    """Sources by name (anything with ``len`` and ``rows(ids, numbers)``), mixed, each reshuffled every epoch by (seed, name, epoch).

    rows_per_epoch: rows of all sources together. ``end``: the row after the last where epochs are capped, else None. lengths: of the
    rows of sources that know them, for ``group`` rows of similar length to stand together; windows are then cut behind their longest row.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        seed: int,
        mixture: Mixture | None = None,
        lengths: Mapping[str, np.ndarray] | None = None,
        group: int = 0,
    ):
        empty = [name for name, source in sources.items() if not len(source)]
        if empty or not sources:
            raise UserError(f"data source {', '.join(empty) or '(none)'} has no rows")
        self.sources, self.seed = dict(sources), seed
        self.source_names = list(sources)
        self._lengths = np.array([len(source) for source in sources.values()], dtype=np.int64)
        self.mixture = mixture or Mixture([0], [self._lengths.tolist()])
        self.rows_per_epoch = int(self._lengths.sum())
        self.end = self.mixture.end
        self.lengths, self.group = dict(lengths or {}) if group else {}, group
        self._orders: dict[tuple[int, int], Permutation | Grouped] = {}
        self._told = not self.lengths
        self._fields: dict[str, Field] | None = None

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

    def fields(self) -> dict[str, Field]:
        """What a row holds: the fields of all sources together. Raises UserError where two give a key in different shapes."""
        if self._fields is None:
            found: dict[str, Field] = {}
            for name, source in self.sources.items():
                fields = source.fields() if hasattr(source, "fields") else {}
                for key, field in fields.items():
                    known = found.get(key, field)
                    if known.shape != field.shape:
                        raise UserError(
                            f"data source {name} gives {key} of shape {field.shape}, others {known.shape}: they cannot be mixed"
                        )
                found = mixed_fields(found, fields)
            self._fields = found
        return self._fields

    @property
    def seconds_per_row(self) -> float:
        """Length of audio in a row, on average over an epoch; 0 where no source is sound. Padding counts where lengths are not known."""
        filled = [self.lengths[name].mean() / source.size if name in self.lengths else 1.0 for name, source in self.sources.items()]
        seconds = np.array([getattr(source, "seconds_per_row", 0.0) for source in self.sources.values()]) * filled
        return float((seconds * self._lengths).sum() / self._lengths.sum())

    def notices(self) -> list[dict[str, Any]]:
        """What sources have to say since the last call, such as rows that were passed over."""
        padding = [] if self._told else [{"name": "padding", "message": f"{name}: {words}"} for name, words in self.padding().items()]
        self._told = True
        return [*padding, *self._said()]

    def _said(self) -> list[dict[str, Any]]:
        return [notice for source in self.sources.values() if hasattr(source, "notices") for notice in source.notices()]

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Any rows by number, in the order given. A key that a row's source does not give says there that there is nothing."""
        source, _, ids = self.locate(rows)
        result: dict[str, np.ndarray] = {"rows": rows, "source": source}
        present = np.unique(source).tolist()
        if len(self.sources) > 1:
            result["rows"] = rows.copy()
            result |= {key: absent(key, (len(rows), *field.shape), field.dtype) for key, field in self.fields().items()}
        for k in present:
            here = np.flatnonzero(source == k)
            part = self.sources[self.source_names[k]].rows(ids[here], rows[here])
            if len(self.sources) == 1:
                return result | part
            self._merge(result, part, here, k)
        return result

    def _merge(self, result: dict[str, np.ndarray], part: Mapping[str, np.ndarray], here: np.ndarray, k: int) -> None:
        for key, values in part.items():
            if key not in result:
                result[key] = absent(key, (len(result["rows"]), *values.shape[1:]), values.dtype)
            if result[key].shape[1:] != values.shape[1:]:
                raise UserError(
                    f"data source {self.source_names[k]} gives {key} of shape {values.shape[1:]}, others {result[key].shape[1:]}: they cannot be mixed"
                )
            result[key][here] = values

    def trimmed(self, batch: dict[str, np.ndarray], start: int, count: int) -> dict[str, np.ndarray]:
        """Some of the rows start to start + count - 1, cut behind the longest of them all: alike for every rank and micro-batch."""
        source, _, ids = self.locate(np.arange(start, start + count, dtype=np.int64))
        longest = 0
        for k in np.unique(source).tolist():
            name = self.source_names[k]
            longest = max(
                longest, int(self.lengths[name][ids[source == k]].max()) if name in self.lengths else getattr(self.sources[name], "size", 0)
            )
        return next(self.sources[name] for name in self.lengths).trimmed(batch, longest)  # type: ignore[no-any-return]

    def padding(self) -> dict[str, str]:
        """By source whose lengths are known: which share of what is computed is padding, with groups of similar length and without."""
        found = {}
        for k, name in enumerate(self.source_names):
            if name in self.lengths:
                source, real = self.sources[name], self.lengths[name][self._order(k, 0)(np.arange(self._lengths[k]))]
                starts = np.arange(0, len(real), self.group)
                sizes = np.array([source.cut_to(longest) for longest in np.maximum.reduceat(real, starts).tolist()])
                there = np.diff(np.append(starts, len(real)))
                share, without = 1 - real.sum() / (sizes * there).sum(), 1 - real.mean() / source.size
                found[name] = (
                    f"{share:.1%} of each batch is padding, in groups of {self.group} rows of similar length; {without:.1%} without"
                )
        return found

    def _order(self, source: int, epoch: int) -> Permutation | Grouped:
        key = (source, epoch)
        if key not in self._orders:
            while len(self._orders) >= 4 * len(self._lengths):
                del self._orders[next(iter(self._orders))]
            name = self.source_names[source]
            order = Permutation(int(self._lengths[source]), seed_of(self.seed, name, epoch))
            self._orders[key] = (
                Grouped(order, self.lengths[name], self.group, seed_of(self.seed, name, epoch)) if name in self.lengths else order
            )
        return self._orders[key]

    def epochs(self, row: int) -> float:
        """Position in epochs: rows given over rows there are."""
        return row / self.rows_per_epoch
