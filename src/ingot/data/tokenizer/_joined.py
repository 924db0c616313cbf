"""Many short texts encoded as few long ones, which spares the library's own work for each text.

A token of our own stands between the texts. The library cuts a text at such tokens before anything else is done to it and treats what
lies between them on its own, so that the ids are those of the texts one by one; a test holds this for every kind of pre-tokenizer that
is let through.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator

import numpy as np
import tokenizers

_BETWEEN = "\ue4c1\ue4c2"  # of Unicode's private use area: a text that holds it is encoded alone
_TOGETHER = 2400  # characters of a joined text; in longer ones the library's cutting itself takes time
_FIRST_DIFFERS = re.compile(r'"prepend_scheme": ?"first"')  # SentencePiece as Llama has it: only a text's first word is given a space


class Joined:
    """Encodes short texts together. Raises ValueError for a tokenizer that treats a text's start unlike what follows one of its tokens."""

    def __init__(self, inner: tokenizers.Tokenizer, dtype: np.dtype):
        description = inner.to_str()
        if _FIRST_DIFFERS.search(description) or json.loads(description)["model"].get("dropout"):
            raise ValueError("the ids of a text depend on where it stands")
        self.dtype = dtype
        self.inner = tokenizers.Tokenizer.from_str(description)
        self.inner.encode_special_tokens = True  # of the others; the one between is not special, so that it is still found
        self.inner.add_tokens([tokenizers.AddedToken(_BETWEEN, normalized=False, special=False)])
        self.between = self.inner.token_to_id(_BETWEEN)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text; none may hold the token between."""
        found: list[np.ndarray] = []
        for encoding in self.inner.encode_batch_fast([_BETWEEN.join(group) for group in _groups(texts)], add_special_tokens=False):
            ids = ids_of(encoding)
            kept, start = ids.astype(self.dtype), 0
            for stop in (*np.flatnonzero(ids == self.between).tolist(), len(ids)):
                found.append(kept[start:stop])
                start = stop + 1
        return found

    @staticmethod
    def safe(texts: list[str]) -> bool:
        """Whether no text holds the token between, or a part of it at its edge."""
        return not any(_BETWEEN[0] in text or _BETWEEN[1] in text for text in texts)


def ids_of(encoding: tokenizers.Encoding) -> np.ndarray:
    """Its ids, uint32. The standard library's array takes them from a list in a third of numpy's time."""
    return np.frombuffer(array("I", encoding.ids), dtype=np.uintc)


def _groups(texts: list[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= _TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group
