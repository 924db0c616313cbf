"""A different order every epoch, at any place, without a table.

A six-round Feistel network on 2h bits (4^h >= n) is a bijection; walking the cycle until the value is below n makes it one of
range(n). Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains". Few rows make a poor Feistel network, so up to
8,192 rows are sorted by a hash instead.
"""

from __future__ import annotations

import hashlib

import numpy as np

SMALL = 1 << 13
TABLED = 1 << 16  # up to so many images are found once and kept, 128 KiB: a call on a few rows walks their cycles for a millisecond
POOL = 64
_ROUNDS = 6


def seed_of(*parts: object) -> int:
    """A 64-bit seed from plain values."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def mix64(x: np.ndarray) -> np.ndarray:
    """Steele, Lea & Flood 2014's SplitMix64 finalizer on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


class Permutation:
    """A bijection of range(n) drawn by a seed. Calling it maps an array of indices; cost about 50 ns each, memory none above 65,536."""

    def __init__(self, n: int, seed: int):
        if n < 1:
            raise ValueError("a permutation wants at least one row")
        self.n = n
        words = mix64(np.uint64(seed & (2**64 - 1)) + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        if n <= SMALL:
            keys = mix64(mix64(np.arange(n, dtype=np.uint64) + words[0]) ^ words[1])
            self.table: np.ndarray | None = np.argsort(keys, kind="stable").astype(np.uint16)
            return
        self.table = None
        self.half = np.uint64(((n - 1).bit_length() + 1) // 2)
        self.mask = np.uint64((1 << int(self.half)) - 1)
        self.keys = words
        if n <= TABLED:
            self.table = self(np.arange(n)).astype(np.uint16)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """int64 images of indices in range(n)."""
        if self.table is not None:
            return self.table[indices].astype(np.int64)
        x = self._once(np.asarray(indices).astype(np.uint64))
        outside = x >= self.n
        while outside.any():
            x[outside] = self._once(x[outside])
            outside = x >= self.n
        return x.astype(np.int64)

    def _once(self, x: np.ndarray) -> np.ndarray:
        left, right = x >> self.half, x & self.mask
        for key in self.keys:
            left, right = right, left ^ (mix64(right + key) & self.mask)
        return (left << self.half) | right


class Grouped:
    """An order of rows in which those of similar length stand together, in groups of so many.

    The order below is cut into pools of POOL groups; a pool's rows are sorted by length, and its groups shuffled, so that lengths do not
    rise and fall with time. A bijection again, found pool by pool; what is left over at the end of an epoch is its last group.
    """

    def __init__(self, order: Permutation, lengths: np.ndarray, group: int, seed: int):
        self.order, self.lengths, self.group, self.seed = order, lengths, group, seed
        self._known: dict[int, np.ndarray] = {}

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """int64 images of indices in range(n)."""
        pool, place = np.divmod(np.asarray(indices, dtype=np.int64), POOL * self.group)
        found = np.empty_like(pool)
        for number in np.unique(pool).tolist():
            here = pool == number
            found[here] = self._pool(number)[place[here]]
        return found

    def _pool(self, number: int) -> np.ndarray:
        if number not in self._known:
            size = POOL * self.group
            rows = self.order(np.arange(number * size, min((number + 1) * size, self.order.n)))
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            whole = len(rows) // self.group
            shuffled = Permutation(whole, seed_of(self.seed, "groups", number))(np.arange(whole)) if whole else np.zeros(0, dtype=np.int64)
            groups = rows[: whole * self.group].reshape(whole, self.group)[shuffled].reshape(-1)
            while len(self._known) >= 4:
                del self._known[next(iter(self._known))]
            self._known[number] = np.concatenate([groups, rows[whole * self.group :]])
        return self._known[number]
