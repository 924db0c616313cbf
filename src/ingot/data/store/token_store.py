"""Prepared shards of one source read as one long sequence of tokens, through memory maps.

N tokens in all, G documents. Nothing is read at opening but meta.json; anonymous memory grows with the number of shards alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import RunError, UserError
from .writer import FORMAT, SPLITS, token_dtype


def read_meta(folder: Path) -> dict[str, Any] | None:
    """A whole shard's description; None where it is missing, of another format, or its files have not the recorded sizes."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        width = np.dtype(meta["dtype"]).itemsize
        for split in SPLITS:
            counts = meta["splits"][split]
            sizes = ((folder / f"{split}.tokens").stat().st_size, (folder / f"{split}.ends").stat().st_size)
            if sizes != (counts["tokens"] * width, counts["documents"] * 8):
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta if meta.get("format") == FORMAT else None


def _allow_files() -> None:
    """Let this process hold as many open files as the system lets it: every map keeps its file open, and usually 1,024 are allowed at first,
    which is 8 GB of text in shards."""
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, ValueError, OSError):  # Windows; a system that allows less than it says
        pass


def _mapped(path: Path, dtype: Any) -> np.ndarray:
    return np.asarray(np.memmap(path, dtype, "r"))


class TokenStore:
    """The shards in order. ``total`` tokens, ``documents`` documents; ``identity`` names the content."""

    def __init__(self, folders: Sequence[Path], split: str, metas: Sequence[dict[str, Any]]):
        kept = [(folder, meta["splits"][split], meta["dtype"]) for folder, meta in zip(folders, metas) if meta["splits"][split]["tokens"]]
        self._tokens = [_mapped(folder / f"{split}.tokens", np.dtype(dtype)) for folder, _, dtype in kept]
        self._ends = [_mapped(folder / f"{split}.ends", np.int64) for folder, _, _ in kept]
        self._starts = np.cumsum([0, *(counts["tokens"] for _, counts, _ in kept)], dtype=np.int64)
        self._first = np.cumsum([0, *(counts["documents"] for _, counts, _ in kept)], dtype=np.int64)
        self.total, self.documents = int(self._starts[-1]), int(self._first[-1])
        self.bytes = sum(counts["bytes"] for _, counts, _ in kept)
        self.identity = [counts["hash"] for _, counts, _ in kept]
        self._windows: dict[int, list[np.ndarray]] = {}

    @classmethod
    def open(cls, folders: Sequence[Path], split: str = "train", *, tokenizer: Any = None) -> TokenStore:
        """Raises RunError for a shard that is not whole, UserError for one that another tokenizer wrote."""
        metas = []
        for folder in folders:
            meta = read_meta(folder)
            if meta is None:
                raise RunError(f"{folder}: the prepared shard is missing or damaged; prepare again")
            if tokenizer is not None and (
                meta.get("tokenizer") != tokenizer.identity or np.dtype(meta["dtype"]) != token_dtype(tokenizer.vocabulary)
            ):
                raise UserError(
                    f"{folder}: was prepared with tokenizer {str(meta.get('tokenizer'))[:12]}, this run's is {tokenizer.identity[:12]}; use that tokenizer or prepare again"
                )
            metas.append(meta)
        _allow_files()
        return cls(folders, split, metas)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(rows, length) tokens from each start; all of them must lie inside the store."""
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        local = starts - self._starts[shards]
        inside = local + length <= np.diff(self._starts)[shards]
        result = np.empty((len(starts), length), dtype=self._tokens[0].dtype if self._tokens else np.uint16)
        views = self._views(length)
        for shard in np.unique(shards[inside]):
            here = inside & (shards == shard)
            result[here] = views[shard][local[here]]
        for row in np.flatnonzero(~inside):
            self.copy(int(starts[row]), result[row])
        return result

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """(sum of lengths,) the tokens of each span, one span after another."""
        result = np.empty(int(lengths.sum()), dtype=self._tokens[0].dtype)
        shards = np.searchsorted(self._starts, starts, side="right") - 1
        local, before = starts - self._starts[shards], np.cumsum(lengths) - lengths
        inside = local + lengths <= np.diff(self._starts)[shards]
        for shard in np.unique(shards[inside]):
            here = inside & (shards == shard)
            offsets = np.arange(int(lengths[here].sum())) - np.repeat(np.cumsum(lengths[here]) - lengths[here], lengths[here])
            result[np.repeat(before[here], lengths[here]) + offsets] = self._tokens[shard][np.repeat(local[here], lengths[here]) + offsets]
        for span in np.flatnonzero(~inside):
            self.copy(int(starts[span]), result[before[span] : before[span] + lengths[span]])
        return result

    def copy(self, start: int, out: np.ndarray) -> None:
        """Fill a 1-D array with the tokens from start, over shard boundaries."""
        shard, done = int(np.searchsorted(self._starts, start, side="right")) - 1, 0
        while done < len(out):
            local = start + done - int(self._starts[shard])
            piece = self._tokens[shard][local : local + len(out) - done]
            out[done : done + len(piece)] = piece
            done, shard = done + len(piece), shard + 1

    def document_at(self, token: int) -> int:
        """The number of the document that a token of the sequence belongs to."""
        shard = int(np.searchsorted(self._starts, token, side="right")) - 1
        within = int(np.searchsorted(self._ends[shard], token - self._starts[shard], side="right"))
        return int(self._first[shard]) + within

    def _views(self, length: int) -> list[np.ndarray]:
        if length not in self._windows:
            self._windows[length] = [np.lib.stride_tricks.sliding_window_view(a, length) if len(a) >= length else a for a in self._tokens]
        return self._windows[length]

    @property
    def lengths(self) -> Lengths:
        """Tokens per document, for packing."""
        return Lengths(self)


class Lengths:
    """(documents,) tokens per document, read in chunks so that no array of all documents is held."""

    def __init__(self, store: TokenStore):
        self._store = store
        self.total, self.identity = store.total, store.identity

    def __len__(self) -> int:
        return self._store.documents

    def chunks(self) -> Iterator[np.ndarray]:
        """int64 arrays that joined are all lengths, in order."""
        for ends in self._store._ends:
            for at in range(0, len(ends), 1 << 20):
                yield np.diff(ends[at : at + (1 << 20)], prepend=ends[at - 1] if at else 0)
