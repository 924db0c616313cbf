"""A text as models read it: opened by the tokenizer's first token, where it has one, closed by its last, cut to what fits between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .seams import Tokenizer


def framed(ids: np.ndarray, tokenizer: Tokenizer, most: int) -> np.ndarray:
    """(N,) int64 of at most ``most`` ids: begin, ids, end."""
    before = opened(tokenizer)
    return np.array([*before, *ids[: max(0, most - len(before) - 1)].tolist(), tokenizer.end][:most], dtype=np.int64)


def laid(ids: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """A row of one framed text: tokens, segments, positions, each (T,); padding repeats the last id."""
    real = np.arange(length) < len(ids)
    tokens = np.full(length, ids[-1], dtype=np.int64)
    tokens[: len(ids)] = ids
    return {"tokens": tokens, "segments": real.astype(np.int32), "positions": np.arange(length) * real}


def opened(tokenizer: Tokenizer) -> list[int]:
    """What stands before the ids of a text; nothing where the tokenizer says nothing of it."""
    begin = getattr(tokenizer, "begin", None)
    return [] if begin is None else [begin]
