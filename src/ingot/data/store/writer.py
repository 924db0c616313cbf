"""Writes one shard's tokens, split into training and validation, aside; a rename makes it whole.

<folder>/<split>.tokens   uint16 or uint32, documents one after another, each with the tokens that open it (where there is one) and close it
<folder>/<split>.ends     int64, where each document ends in the tokens
<folder>/meta.json        identities, counts and hashes; its presence under the final name is the mark of a whole shard
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.atomic import aside_of, flush, settle

FORMAT = 1
SPLITS = ("train", "validation")


def token_dtype(vocabulary: int) -> np.dtype[Any]:
    """The narrowest unsigned type that holds every id."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


class _SplitWriter:
    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any], end: int, begin: Sequence[int]):
        # What stands between two documents, and before the first.
        self.begin, self.end = np.array(begin, dtype=dtype), np.array([end], dtype=dtype)
        self.tokens, self.ends = (folder / f"{split}.tokens").open("wb"), (folder / f"{split}.ends").open("wb")
        self.hash = hashlib.blake2b(digest_size=20)
        self.counts = {"documents": 0, "tokens": 0, "bytes": 0}

    def add(self, arrays: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
        if not arrays:
            return
        pieces = [np.concatenate([self.end, self.begin])] * (2 * len(arrays) + 1)
        pieces[0], pieces[-1] = self.begin, self.end
        pieces[1::2] = arrays
        tokens = np.concatenate(pieces, dtype=self.end.dtype, casting="unsafe")
        ends = self.counts["tokens"] + np.cumsum([len(self.begin) + len(array) + 1 for array in arrays], dtype=np.int64)
        for data, file in ((tokens, self.tokens), (ends, self.ends)):
            file.write(data.data)
            self.hash.update(data.data)
        self.counts["documents"] += len(arrays)
        self.counts["tokens"] += len(tokens)
        self.counts["bytes"] += sum(sizes)

    def close(self) -> dict[str, Any]:
        for file in (self.tokens, self.ends):
            flush(file)
            file.close()
        return self.counts | {"hash": self.hash.hexdigest()}


class ShardWriter:
    """Within ``with``: add batches, then commit. Until then nothing is under the final name; a killed writer leaves only an aside folder."""

    def __init__(self, final: Path, dtype: np.dtype[Any], end: int, begin: Sequence[int] = ()):
        self.final = final
        self.aside = aside_of(final)
        shutil.rmtree(self.aside, ignore_errors=True)
        self.aside.mkdir(parents=True)
        self.dtype = dtype
        self.splits = {split: _SplitWriter(self.aside, split, dtype, end, begin) for split in SPLITS}
        self.rejected = 0

    def add(self, split: str, arrays: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
        """arrays: each document's ids; the tokens that open and close it are added here. sizes: its UTF-8 bytes."""
        self.splits[split].add(arrays, sizes)

    def commit(self, **identity: Any) -> dict[str, Any]:
        """Make the shard whole. Where another process was faster, its equal result stands."""
        meta = {
            "format": FORMAT,
            **identity,
            "dtype": self.dtype.name,
            "rejected": self.rejected,
            "splits": {name: split.close() for name, split in self.splits.items()},
        }
        path = self.aside / "meta.json"
        with path.open("w", encoding="utf-8") as file:
            json.dump(meta, file, indent=1, sort_keys=True)
            flush(file)
        settle(self.aside, self.final, mark="meta.json")
        return meta

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what was written and not committed."""
        for split in self.splits.values():
            for file in (split.tokens, split.ends):
                with contextlib.suppress(OSError):
                    file.close()
        shutil.rmtree(self.aside, ignore_errors=True)
