r"""Moments in 8 or 4 bits: codes into a table of values, with one scale for every block of a row.

    s_b = max |x_b|        c_i = argmin_c |T_c - x_i / s_b|        x_i ~ s_b T[c_i]

8 bits: the dynamic tables of Dettmers et al. 2022, arXiv:2110.02861 (seven exponent bits), signed for the first moment, unsigned for
the second; blocks of 256.   4 bits: Li, Chen & Zhu 2023, arXiv:2309.01507: the dynamic table with three exponent bits for the first
moment, a linear table without zero for the second (section 4: a second moment that becomes zero makes a huge step); blocks of 128.

Blocks lie within a row, a row being everything under one index of the first dimension, and its last block may be short. So no block
is cut when the weight is, and any number of ranks has the same codes.

DEPARTS: torchao and bitsandbytes cut the flattened tensor into blocks, which is the same where rows are multiples of the block.

Shapes: codes (rows, columns) uint8, or (rows, ceil(columns / 2)) for 4 bits, the first of two in the high half; scales (rows, blocks) fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from ._declared import Held
from ._groups import Layout, local

_LEAST = 1e-12  # a block of zeros has this scale
_PART = {"cpu": 2**16}  # elements worked on at once: what stays in a CPU's cache; elsewhere what bounds the memory of temporaries
_PART_ELSEWHERE = 2**26


class Codec(NamedTuple):
    """bits: 8 or 4. signed: the first moment. block: elements under one scale, at most."""

    bits: int
    signed: bool
    block: int

    def table(self, device: torch.device) -> Tensor:
        """The values that codes stand for, ascending."""
        return _table(self.bits, self.signed, device)


def codecs(bits: int, block: int | None = None) -> dict[str, Codec]:
    """Codecs of Adam's two moments by key; none for 32 bits."""
    size = block or {8: 256, 4: 128}.get(bits, 0)
    return {} if bits == 32 else {"exp_avg": Codec(bits, True, size), "exp_avg_sq": Codec(bits, False, size)}


def dynamic_table(bits: int, exponents: int, signed: bool) -> list[float]:
    """The dynamic tree: each power of ten below 1 has twice as many values as the next lower one; and 0 and 1."""
    values = [0.0, 1.0]
    for power in range(exponents):
        items = 2 ** (power + bits - 1 - exponents + (not signed))
        edges = torch.linspace(0.1, 1, items + 1, device="cpu")
        middles = (10.0 ** (power - exponents + 1) * (edges[:-1] + edges[1:]) / 2).tolist()
        values += middles + [-value for value in middles] * signed
    return sorted(values)


@cache
def _table(bits: int, signed: bool, device: torch.device) -> Tensor:
    with _disable_current_modes():  # real numbers even while a step is forecast
        values = dynamic_table(bits, bits - 1, signed) if bits == 8 or signed else torch.linspace(0, 1, 17, device="cpu")[1:].tolist()
        return torch.tensor(values, dtype=torch.float32, device="cpu").to(device)


@cache
def _bounds(bits: int, signed: bool, device: torch.device) -> Tensor:
    """The least number that is rounded up to each value but the first: x - T_c >= (T_{c+1} - T_c) / 2 as fp32 computes it."""
    with _disable_current_modes():
        low, high = (values := _table(bits, signed, torch.device("cpu")))[:-1], values[1:]
        half, bounds = (high - low) * 0.5, (low + high) / 2
        for _ in range(3):  # both formulas round, by an ulp or two
            below = torch.nextafter(bounds, low)
            bounds = torch.where(below - low >= half, below, bounds)
        for _ in range(3):
            bounds = torch.where(bounds - low >= half, bounds, torch.nextafter(bounds, high))
        return bounds.to(device)


@cache
def _search(bits: int, signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """For the upper half of an fp32 number's bits the code of the least such number; and for every code the next one's bound.

    Numbers with the same upper half lie so close together that there is at most one bound among them: two look-ups and a comparison
    find the code, at a fiftieth of the cost of a binary search.
    """
    with _disable_current_modes():
        bounds = _bounds(bits, signed, torch.device("cpu"))
        upper = torch.arange(1 << 16, dtype=torch.int64, device="cpu") << 16
        ends = torch.stack([upper, upper | 0xFFFF]).to(torch.int32).view(torch.float32).nan_to_num(0)
        codes = torch.bucketize(ends, bounds, right=True).sort(0).values
        inside = ends.abs().amax(0) < 2
        assert int((codes[1] - codes[0])[inside].max()) <= 1
        return codes[0].int().to(device), torch.cat([bounds, torch.tensor([torch.inf], device="cpu")]).to(device)


def quantize(values_RC: Tensor, codec: Codec) -> tuple[Tensor, Tensor]:
    """(codes, scales) of every row."""
    rows, columns = values_RC.shape
    size = min(codec.block, columns)
    blocks = -(-columns // size)
    spare = blocks * size - columns
    padded = (F.pad(values_RC.float(), (0, spare)) if spare else values_RC.float()).reshape(rows, blocks, size)
    scales_RB = padded.abs().amax(-1).clamp(min=_LEAST)
    scaled = padded / scales_RB[:, :, None]
    lowest, bounds = _search(codec.bits, codec.signed, values_RC.device)
    found = lowest.index_select(0, (scaled.view(torch.int32) >> 16 & 0xFFFF).reshape(-1))
    found = found.to(torch.uint8).add_(scaled.reshape(-1) >= bounds.index_select(0, found))
    codes_RC = found.reshape(rows, blocks * size)[:, :columns]
    if codec.bits == 8:
        return codes_RC, scales_RB
    pairs = F.pad(codes_RC, (0, columns % 2)).reshape(rows, -(-columns // 2), 2)
    return pairs[:, :, 0] << 4 | pairs[:, :, 1], scales_RB


def dequantize(codes: Tensor, scales_RB: Tensor, columns: int, codec: Codec) -> Tensor:
    """(rows, columns) fp32 values."""
    rows, blocks = scales_RB.shape
    if codec.bits == 4:
        codes = torch.stack([codes >> 4, codes & 15], -1).reshape(rows, 2 * codes.shape[1])[:, :columns]
    size = min(codec.block, columns)
    values_RC = codec.table(codes.device).index_select(0, codes.reshape(-1).int()).reshape(rows, columns)
    if columns == blocks * size:
        return (values_RC.reshape(rows, blocks, size) * scales_RB[:, :, None]).reshape(rows, columns)
    return values_RC * scales_RB.repeat_interleave(size, 1)[:, :columns]


def held_moment(key: str, shape: tuple[int, ...], dtype: torch.dtype, layout: Layout, codec: Codec | None) -> dict[str, Held]:
    """What a moment of this shape is kept as."""
    if codec is None:
        return {key: Held(layout, shape, dtype)}
    rows, columns = shape[0], prod(shape[1:])
    blocks = -(-columns // min(codec.block, columns))
    codes = (rows, columns if codec.bits == 8 else -(-columns // 2))
    return {f"{key}_codes": Held("quantized", codes, torch.uint8), f"{key}_scales": Held("quantized", (rows, blocks), torch.float32)}


def read(state: dict[str, Any], key: str, like: Tensor, codec: Codec | None) -> Tensor:
    """This rank's piece of a moment, of the shape and dtype of `like`; where it is kept as it is, the kept tensor itself."""
    if codec is None:
        return local(state[key])
    columns = prod(like.shape[1:])
    return dequantize(local(state[f"{key}_codes"]), local(state[f"{key}_scales"]), columns, codec).to(like.dtype).reshape(like.shape)


def write(state: dict[str, Any], key: str, value: Tensor, codec: Codec | None) -> None:
    """Keep a new value of the moment that ``read`` gave."""
    if codec is None:
        return
    codes, scales = quantize(value.reshape(value.shape[0], prod(value.shape[1:])), codec)
    local(state[f"{key}_codes"]).copy_(codes)
    local(state[f"{key}_scales"]).copy_(scales)


def moments(state: dict[str, Any], gradient: Tensor, betas: tuple[float, float], kept: dict[str, Codec]) -> tuple[Tensor, Tensor]:
    """Adam's two moments after this gradient, in full precision for the update, kept as their codecs say. Do not write to them."""
    first, second = (read(state, key, gradient, kept.get(key)) for key in ("exp_avg", "exp_avg_sq"))
    first.lerp_(gradient, 1 - betas[0])
    second.lerp_(gradient.square(), 1 - betas[1])
    for key, value in (("exp_avg", first), ("exp_avg_sq", second)):
        write(state, key, value, kept.get(key))
    return first, second


def by_rows(state: dict[str, Any], gradient: Tensor, kept: dict[str, Codec]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Slices of rows to take in turn, each with views of its state, so that few numbers are ever held in full precision at once."""
    if not kept:
        yield ..., state
        return
    size = max(1, _PART.get(gradient.device.type, _PART_ELSEWHERE) // prod(gradient.shape[1:]))
    own = {key: local(value) for key, value in state.items() if key.endswith(("_codes", "_scales"))}
    for start in range(0, gradient.shape[0], size):
        rows = slice(start, start + size)
        yield rows, {key: value[rows] for key, value in own.items()}
