"""Documents one after another, cut into rows of T tokens.   As in GPT-2/3 (Brown et al. 2020, arXiv:2005.14165).

    row r = tokens [r T, (r + 1) T) of the concatenation; the last row is padded

Every token is in exactly one row. No index, no padding but the last row's; documents are cut wherever a row ends. State: none.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ...core.parts import part
from ._spans import Spans


@part
class Stream:
    """attend: whether attention sees only its own document, or the whole row."""

    def __init__(self, lengths: Any, sequence: int, *, attend: Literal["document", "row"] = "document"):
        self.lengths, self.sequence, self.attend = lengths, sequence, attend
        self.total = int(lengths.total)

    def __len__(self) -> int:
        return -(-self.total // self.sequence)

    def spans(self, ids: np.ndarray) -> Spans:
        """One span a row."""
        start = ids * self.sequence
        return Spans(np.arange(len(ids)), start, np.minimum(self.sequence, self.total - start))

    def report(self) -> dict[str, float]:
        """padding: share of positions without a token. cut: share of documents that lie in more than one row."""
        cut, at = 0, 0
        for lengths in self.lengths.chunks():
            ends = at + np.cumsum(lengths)
            cut += int(np.count_nonzero((ends - lengths) // self.sequence != (ends - 1) // self.sequence))
            at = int(ends[-1])
        return {"rows": len(self), "padding": 1 - self.total / max(1, len(self) * self.sequence), "cut": cut / max(1, len(self.lengths))}
