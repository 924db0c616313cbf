"""Whole documents packed into rows by best fit, longest first.   Ding et al. 2024, arXiv:2404.10830, section 3.

    documents are split into pieces of at most T tokens; pieces are placed longest first, each into the row with the least room that
    still takes it, or into a new row

Only documents longer than T are cut. The index of rows is computed once, kept beside the store, and read through a memory map.
Cost: O(pieces), with a bit set of the rooms there are. State: none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...core.parts import part
from ._spans import Index, Spans, kept, pieces_of


@part
class BestFit:
    """attend: whether attention sees only its own document, or the whole row."""

    def __init__(self, lengths: Any, sequence: int, cache: Path | None = None, *, attend: Literal["document", "row"] = "document"):
        self.lengths, self.sequence, self.attend = lengths, sequence, attend
        self.index = kept(cache, ("best_fit", lengths.identity, sequence), self._make)

    def __len__(self) -> int:
        return len(self.index)

    def spans(self, ids: np.ndarray) -> Spans:
        """The pieces of each row."""
        return self.index.spans(ids)

    def report(self) -> dict[str, float]:
        """padding: share of positions without a token. cut: share of documents that lie in more than one row."""
        cut = sum(int(np.count_nonzero(lengths > self.sequence)) for lengths in self.lengths.chunks())
        return {
            "rows": len(self),
            "padding": 1 - self.lengths.total / max(1, len(self) * self.sequence),
            "cut": cut / max(1, len(self.lengths)),
        }

    def _make(self) -> Index:
        start, length = pieces_of(self.lengths, self.sequence)
        order = np.argsort(-length, kind="stable")
        row = np.empty(len(order), dtype=np.int64)
        row[order] = best_fit(length[order].tolist(), self.sequence)
        by_row = np.lexsort((start, row))
        counts = np.bincount(row, minlength=int(row.max()) + 1 if len(row) else 0)
        return Index(np.concatenate([[0], np.cumsum(counts)]), start[by_row], length[by_row])


def best_fit(lengths: list[int], capacity: int) -> list[int]:
    """The row of each piece, pieces given longest first. Bit r of ``rooms`` says that some row has room r."""
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms, rows = 0, 0
    result = []
    for length in lengths:
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = waiting[room].pop()
            if not waiting[room]:
                rooms ^= 1 << room
        else:
            room, row, rows = capacity, rows, rows + 1
        left = room - length
        if left:
            waiting[left].append(row)
            rooms |= 1 << left
        result.append(row)
    return result
