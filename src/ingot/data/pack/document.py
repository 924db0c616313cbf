"""One document a row, padded; a document longer than T continues in further rows.

No row holds two documents: the choice for classification-like data and for measuring documents one by one. Padding is as large as
documents are short. State: none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...core.parts import part
from ._spans import Index, Spans, kept, pieces_of


@part
class Document:
    """long: what becomes of a document of more than T tokens: ``split`` into rows, or ``cut`` to its first T."""

    attend = "document"

    def __init__(self, lengths: Any, sequence: int, cache: Path | None = None, *, long: Literal["split", "cut"] = "split"):
        self.lengths, self.sequence, self.long = lengths, sequence, long
        self.index = kept(cache, ("document", lengths.identity, sequence, long), self._make)

    def __len__(self) -> int:
        return len(self.index)

    def spans(self, ids: np.ndarray) -> Spans:
        """One span a row."""
        return self.index.spans(ids)

    def report(self) -> dict[str, float]:
        """padding: share of positions without a token. cut: share of documents that are split or lose their end."""
        cut = sum(int(np.count_nonzero(lengths > self.sequence)) for lengths in self.lengths.chunks())
        filled = int(np.sum(self.index.length, dtype=np.int64))
        return {"rows": len(self), "padding": 1 - filled / max(1, len(self) * self.sequence), "cut": cut / max(1, len(self.lengths))}

    def _make(self) -> Index:
        start, length = pieces_of(self.lengths, self.sequence, first_only=self.long == "cut")
        return Index(np.arange(len(start) + 1), start, length)
