"""Randomness as a function of (key, row, salt, element): no generator, no state, the same under any split of the batch.

A row's 64 bits of state come from key, row and salt by three rounds of splitmix64's finalizer (Steele, Lea and Flood 2014); each
element's 32 bits come from its index, mixed twice by the 32-bit finalizer "lowbias32" (C. Wellons, 2018) with one half of the
state folded in before each. Row numbers above 2^32 count in full. Integer arithmetic only, so every device and compiler gives
the same bits.

    rows   (B,) integers   global row numbers           key   () int64 tensor   the run's seed, or a mix of seed and step
    salt   int or () int64 tensor: what the numbers are for. Give a tensor where the caller is compiled once for many layers.

key and rows must be tensors: Python numbers would become constants of a compiled graph.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_IN_CACHE = 1 << 16  # elements mixed at a time on a CPU, so that the passes over them stay in its cache


def salt_of(name: str) -> int:
    """A stable 63-bit number for a name, such as a layer's path."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def _mix64(x: Tensor) -> Tensor:
    """The finalizer of splitmix64 on int64 with wrap-around; the masks make arithmetic shifts logical."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _mix32(x: Tensor) -> Tensor:
    """lowbias32 in place on int32 with wrap-around."""
    x ^= (x >> 16) & 0xFFFF
    x *= 0x7FEB352D
    x ^= (x >> 15) & 0x1FFFF
    x *= -2073254261
    x ^= (x >> 16) & 0xFFFF
    return x


def hash_bits(rows_B: Tensor, count: int, key: Tensor, salt: int | Tensor, start: int = 0) -> Tensor:
    """(B, count) int32, 32 random bits each, for the elements start .. start+count of every row (start: this shard's first)."""
    if not isinstance(salt, Tensor):
        salt = torch.full((), salt, dtype=torch.int64, device=rows_B.device)
    found: Tensor = torch.ops.ingot.hash_bits(rows_B, count, key, salt, start)
    return found


def _hash_bits(rows_B: Tensor, count: int, key: Tensor, salt: Tensor, start: int) -> Tensor:
    state_B = _mix64(rows_B.to(torch.int64) + _mix64(key.to(torch.int64) + _mix64(salt.to(torch.int64) + 0x1E3779B97F4A7C15)))
    # The halves as signed 32-bit numbers, by arithmetic: narrowing casts that overflow are not portable.
    low_B1 = (((state_B + 2**31) & 0xFFFFFFFF) - 2**31).to(torch.int32)[:, None]
    high_B1 = (state_B >> 32).to(torch.int32)[:, None]
    index_N = torch.arange(start, start + count, dtype=torch.int32, device=rows_B.device) * -1028477387
    if not rows_B.is_cpu:
        return _mix32(_mix32(index_N ^ low_B1) + high_B1)
    found = torch.empty(len(rows_B), count, dtype=torch.int32)
    rows = max(1, _IN_CACHE // max(1, count))
    for first in range(0, len(rows_B), rows):
        part = slice(first, first + rows)
        torch.bitwise_xor(index_N, low_B1[part], out=found[part])
        _mix32(_mix32(found[part]).add_(high_B1[part]))
    return found


# One operator to a compiler: laid open, every use of a mixed number holds the numbers before it twice, and Inductor took minutes to
# make code of a model with dropout (torch 2.13).
_library = torch.library.Library("ingot", "FRAGMENT")
_library.define("hash_bits(Tensor rows, SymInt count, Tensor key, Tensor salt, SymInt start) -> Tensor")
_library.impl("hash_bits", _hash_bits, "CompositeExplicitAutograd")
torch.library.register_fake(
    "ingot::hash_bits", lambda rows, count, key, salt, start: rows.new_empty((rows.shape[0], count), dtype=torch.int32)
)


def hash_uniform(rows_B: Tensor, count: int, key: Tensor, salt: int | Tensor, start: int = 0) -> Tensor:
    """(B, count) float32, uniform over the 2^24 multiples of 2^-24 in [0, 1)."""
    return ((hash_bits(rows_B, count, key, salt, start) >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def dropout(x: Tensor, rate: float, rows_B: Tensor, key: Tensor, salt: int | Tensor) -> Tensor:
    """x (B, ...) with each element zeroed with probability `rate` and the rest divided by 1 - rate. The caller skips it in evaluation."""
    if rate <= 0:
        return x
    if rate >= 1:
        return torch.zeros_like(x)
    bits = hash_bits(rows_B, x.shape[1:].numel(), key, salt) & 0x7FFFFFFF
    dropped = (bits < int(rate * 2**31)).view(x.shape)
    # The factor multiplies x itself: a bf16 mask holding 1/(1-rate) would round it, a bias of up to 0.2 %.
    return (x * (1 / (1 - rate))).masked_fill(dropped, 0)


def dropout_reference(x: Tensor, rate: float, rows_B: Tensor, key: Tensor, salt: int) -> Tensor:
    """The same mask from Python's unbounded integers, one element at a time; slow, for tests."""
    out = torch.zeros_like(x)
    count = x[0].numel()
    for b, row in enumerate(rows_B.tolist()):
        flat_in, flat_out = x[b].reshape(-1), out[b].view(-1)
        for i in range(count):
            if (_element(row, i, int(key), salt) & 0x7FFFFFFF) >= int(rate * 2**31):
                flat_out[i] = flat_in[i] * (1 / (1 - rate))
    return out


def _element(row: int, index: int, key: int, salt: int) -> int:
    m64, m32 = 2**64 - 1, 2**32 - 1

    def wide(x: int) -> int:
        x &= m64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & m64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & m64
        return x ^ (x >> 31)

    def narrow(x: int) -> int:
        x &= m32
        x = (x ^ (x >> 16)) * 0x7FEB352D & m32
        x = (x ^ (x >> 15)) * 0x846CA68B & m32
        return x ^ (x >> 16)

    state = wide(row + wide(key + wide(salt + 0x1E3779B97F4A7C15)))
    return narrow(narrow(index * -1028477387 & m32 ^ state & m32) + (state >> 32))
