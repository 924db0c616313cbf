"""Rows of tokens from a store and a pack, gathered for a whole batch at once.   B rows, T positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.seams import Field
from .rows import text_fields
from .store.token_store import TokenStore


class TextRows:
    """A RowSource: random access to packed rows. begin, end: open and close a document; pad: fills what no document fills."""

    def __init__(self, store: TokenStore, pack: Any, *, sequence: int, end: int, pad: int, begin: int | None = None):
        self.store, self.pack, self.sequence, self.begin, self.end, self.pad = store, pack, sequence, begin, end, pad

    def __len__(self) -> int:
        return len(self.pack)

    def fields(self) -> dict[str, Field]:
        """tokens, segments, positions."""
        return text_fields(self.sequence)

    def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """tokens (B, T) int64, segments (B, T) int32 from 1 (0 is padding), positions (B, T) int64."""
        spans = self.pack.spans(ids)
        starts_row = np.zeros((len(ids), self.sequence), dtype=bool)
        starts_row[:, 0] = True
        if len(spans.row) == len(ids) and bool((spans.length == self.sequence).all()):
            tokens_BT, filled_B = self.store.windows(spans.start, self.sequence).astype(np.int64), None
        else:
            tokens_BT, filled_B = self._gather(spans, starts_row)
        return self._layout(tokens_BT, filled_B, starts_row)

    def where(self, index: int) -> str:
        """The documents that a row has something of, numbered as the source gives them, those held out left out."""
        spans = self.pack.spans(np.array([index]))
        ends = [(start, start + length - 1) for start, length in zip(spans.start.tolist(), spans.length.tolist(), strict=True)]
        found = sorted({(self.store.document_at(first), self.store.document_at(last)) for first, last in ends})
        words = [str(first) if first == last else f"{first} to {last}" for first, last in found]
        return f"document{'s' if len(words) > 1 or ' ' in words[0] else ''} {', '.join(words)}" if words else "no document"

    def _gather(self, spans: Any, starts_row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place spans one after another in their rows. Returns the tokens and how many positions of each row are filled."""
        tokens_BT = np.full(starts_row.shape, self.pad, dtype=np.int64)
        before = np.cumsum(spans.length) - spans.length
        filled_B = np.bincount(spans.row, weights=spans.length, minlength=len(starts_row)).astype(np.int64)
        column = before - (np.cumsum(filled_B) - filled_B)[spans.row]
        starts_row[spans.row, column] = True
        place = np.repeat(spans.row * self.sequence + column - before, spans.length) + np.arange(int(spans.length.sum()))
        tokens_BT.reshape(-1)[place] = self.store.gather(spans.start, spans.length)
        return tokens_BT, filled_B

    def _layout(self, tokens_BT: np.ndarray, filled_B: np.ndarray | None, starts_row: np.ndarray) -> dict[str, np.ndarray]:
        columns = np.arange(self.sequence)
        valid_BT = True if filled_B is None else columns < filled_B[:, None]
        if self.pack.attend == "row":
            segments_BT = np.broadcast_to(np.asarray(valid_BT, dtype=np.int32), tokens_BT.shape).copy()
            return {"tokens": tokens_BT, "segments": segments_BT, "positions": columns * (segments_BT > 0)}
        starts_BT = tokens_BT[:, :-1] == self.end
        if self.begin is not None:  # which may be the same token: the first of two opens nothing by itself
            starts_BT &= tokens_BT[:, 1:] == self.begin
        starts_row[:, 1:] |= starts_BT
        segments_BT = np.cumsum(starts_row, axis=1, dtype=np.int32)
        positions_BT = columns - np.maximum.accumulate(np.where(starts_row, columns, 0), axis=1)
        if filled_B is not None:
            segments_BT[~valid_BT] = 0
            positions_BT[~valid_BT] = 0
        return {"tokens": tokens_BT, "segments": segments_BT, "positions": positions_BT}
