"""Which source each row comes from: exact shares in every window of 1,000 rows, any row found at once.   K sources.

Of each 1,000 rows, source k has floor(1000 w_k) fixed places, spread evenly; the R places left over belong to the fractions
f_k = 1000 w_k - floor(1000 w_k), which sum to R. Place e of these (counted over all blocks) takes the source whose arc of a circle
of circumference R holds the point e (1 - 1/Q) mod R. Neighboring points lie 1 - 1/Q apart, so R places in a row never meet an arc
of length f_k < 1 twice: in any window of 1,000 rows a source's count differs from 1000 w_k by less than one, and over Q blocks its
share is exact to 1 / (1000 Q).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.errors import RunError

BLOCK = 1000
FINE = 998  # Q above: Q - 1 is a prime, so that the points of a period visit every place of the circle


class Pattern:
    """Fixed weights. counts(m): rows of each source among the first m. locate(i): source and ordinal within it of rows i."""

    def __init__(self, weights: Sequence[float]):
        w = np.asarray(weights, dtype=np.float64)
        if not (w >= 0).all() or not np.isfinite(w).all() or w.sum() <= 0:
            raise ValueError(f"weights want numbers of at least 0, not all 0, got {list(weights)}")
        units = _apportion(w / w.sum(), BLOCK * FINE)
        self.sources = len(w)
        self.fixed, self.fraction = units // FINE, units % FINE
        self.loose = BLOCK - int(self.fixed.sum())
        slots = _spread(np.append(self.fixed, self.loose))
        self.slot = slots
        # before[j, k]: fixed places of source k (column K: loose places) among the block's first j
        self.before = np.concatenate([np.zeros((1, len(w) + 1), np.int64), np.cumsum(slots[:, None] == np.arange(len(w) + 1), axis=0)])
        self._circle()

    def _circle(self) -> None:
        """owner[e]: source of loose place e of the period; hits[k]: sorted places of source k."""
        self.period = self.loose * FINE
        points = np.arange(self.period, dtype=np.int64) * (FINE - 1) % max(1, self.period)
        self.owner = np.searchsorted(np.cumsum(self.fraction), points, side="right")
        order = np.argsort(self.owner, kind="stable")
        self.hits = np.split(order, np.searchsorted(self.owner[order], np.arange(1, self.sources)))

    def _loose_before(self, source: int, places: np.ndarray) -> np.ndarray:
        if not self.period:
            return np.zeros_like(places)
        turn, rest = np.divmod(places, self.period)
        return turn * len(self.hits[source]) + np.searchsorted(self.hits[source], rest)

    def counts(self, rows: int) -> np.ndarray:
        """(K,) rows of each source among the first ``rows``."""
        block, j = divmod(rows, BLOCK)
        places = np.array([block * self.loose + self.before[j, -1]])
        return np.array([block * self.fixed[k] + self.before[j, k] + self._loose_before(k, places)[0] for k in range(self.sources)])

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B,) source and (B,) ordinal of each row within its source."""
        block, j = np.divmod(rows, BLOCK)
        source = self.slot[j].copy()
        places = block * self.loose + self.before[j, -1]
        loose = source == self.sources
        if loose.any():
            source[loose] = self.owner[places[loose] % self.period]
        ordinal = block * self.fixed[source] + self.before[j, source]
        for k in np.unique(source):
            here = source == k
            ordinal[here] += self._loose_before(int(k), places[here])
        return source, ordinal


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to total, by largest remainder; a positive share gets at least one."""
    exact = shares * total
    units = np.floor(exact).astype(np.int64)
    left = total - int(units.sum())
    units[np.argsort(-(exact - units), kind="stable")[:left]] += 1
    for k in np.flatnonzero((shares > 0) & (units == 0)):
        units[k] += 1
        units[np.argmax(units)] -= 1
    return units


def _spread(counts: np.ndarray) -> np.ndarray:
    """(BLOCK,) source of each place, each source as evenly as it goes: always the one furthest behind its share."""
    given = np.zeros(len(counts))
    result = np.empty(BLOCK, dtype=np.int64)
    for place in range(BLOCK):
        behind = np.where(given < counts, counts * (place + 1) / BLOCK - given, -np.inf)
        result[place] = int(np.argmax(behind))
        given[result[place]] += 1
    return result


class Mixture:
    """Weights that change at given rows, and sources that run out. K sources, P pieces of constant weights.

    starts, weights: from which row on which weights hold; the first start is 0. caps: most rows a source may give, None without
    limit; from the row where it has given them its share goes to the others. ``end``: the row at which all are spent, or None.
    """

    def __init__(self, starts: Sequence[int], weights: Sequence[Sequence[float]], caps: Sequence[int | None] | None = None):
        if list(starts) != sorted(set(starts)) or not starts or starts[0] != 0:
            raise ValueError("phases start at growing rows, the first at 0")
        self.caps = list(caps) if caps is not None else [None] * len(weights[0])
        self.starts: list[int] = []
        self.patterns: list[Pattern] = []
        self.used: list[np.ndarray] = []
        self.end: int | None = None
        used = np.zeros(len(self.caps), dtype=np.int64)
        for start, stop, share in zip(starts, [*starts[1:], None], weights):
            if self.end is None:
                used = self._piece(start, stop, np.asarray(share, dtype=np.float64), used)

    def _piece(self, start: int, stop: int | None, share: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Lay out [start, stop), cut where sources run out; returns what is used at its end."""
        while stop is None or start < stop:
            live = share * np.array([cap is None or used[k] < cap for k, cap in enumerate(self.caps)])
            if live.sum() <= 0:
                self.end = start
                return used
            pattern = Pattern(live)
            length = min(
                (_rows_until(pattern, k, cap - int(used[k])) for k, cap in enumerate(self.caps) if cap is not None and live[k] > 0),
                default=None,
            )
            if stop is not None:
                length = stop - start if length is None else min(length, stop - start)
            self.starts.append(start)
            self.patterns.append(pattern)
            self.used.append(used)
            if length is None:
                return used
            used = used + pattern.counts(length)
            start += length
        return used

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B,) source and (B,) ordinal within the source, from any place at once. Raises RunError past the end."""
        if self.end is not None and len(rows) and int(rows.max()) >= self.end:
            raise RunError(
                f"the data ends at row {self.end:,}: every source has given all it may (max_epochs); row {int(rows.max()):,} was asked for"
            )
        piece = np.searchsorted(self.starts, rows, side="right") - 1
        source, ordinal = np.empty_like(rows), np.empty_like(rows)
        for p in np.unique(piece):
            here = piece == p
            source[here], within = self.patterns[p].locate(rows[here] - self.starts[p])
            ordinal[here] = within + self.used[p][source[here]]
        return source, ordinal

    def counts(self, row: int) -> np.ndarray:
        """(K,) rows each source has given before a row."""
        p = int(np.searchsorted(self.starts, row, side="right")) - 1
        return np.asarray(self.used[p] + self.patterns[p].counts(row - self.starts[p]))


def _rows_until(pattern: Pattern, source: int, wanted: int) -> int:
    """The fewest rows of a pattern that hold ``wanted`` rows of a source."""
    low, high = 0, BLOCK
    while pattern.counts(high)[source] < wanted:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if pattern.counts(middle)[source] >= wanted else (middle + 1, high)
    return low
