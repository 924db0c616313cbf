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
from math import gcd, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from ..core.axes import Axes
from ._adam import adam_, slabs
from ._declared import Held
from ._groups import Layout, local

CODE_POWERS: dict[str, int | str] = {  # a momentum whose codes and scales are zero is zero
    f"{key}_{part}": power for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)) for part in ("codes", "scales")
}
_LEAST = 1e-12  # a block of zeros has this scale


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
def _carries(bits: int, signed: bool, device: torch.device) -> Tensor:
    """By the upper half of a number's bits: what to add to the bits, all inverted if it is negative, to have the code in the upper half.

    Inverted, they grow with the number. Numbers with the same upper half lie so close together that there is at most one bound among
    them: the addend puts the lower code into the upper half, and makes the lower half carry at the bound.
    """
    with _disable_current_modes():
        bounds = _bounds(bits, signed, torch.device("cpu"))
        upper = torch.arange(1 << 16, dtype=torch.int64, device="cpu") << 16
        ends = torch.stack([upper, upper | 0xFFFF]).to(torch.int32).view(torch.float32).nan_to_num(0).sort(0).values
        low, high = torch.bucketize(ends, bounds, right=True)
        inside = ends.abs().amax(0) < 2
        assert int((high - low)[inside].max()) <= 1
        least, bound = (_growing(values) for values in (ends[0], bounds[low.clamp(max=len(bounds) - 1)]))
        until = torch.where(high > low, bound - least, 1 << 16)
        addends = ((low + 1) << 16) - least - until
        return addends.where(inside, 0).to(torch.int32).to(device)


def _growing(values: Tensor) -> Tensor:
    bits = values.view(torch.int32)
    return torch.bitwise_xor(bits, bits >> 31).long()


@cache
def _pairs(signed: bool, device: torch.device) -> Tensor:
    """For a byte of two 4-bit codes their two values, which lie in one fp64 number's place."""
    with _disable_current_modes():
        table, codes = _table(4, signed, torch.device("cpu")), torch.arange(256, device="cpu")
        return torch.stack([table[codes >> 4], table[codes & 15]], -1).view(torch.float64)[:, 0].to(device)


def quantize(values_RC: Tensor, codec: Codec) -> tuple[Tensor, Tensor]:
    """(codes, scales) of every row."""
    codes, scales_RB = _quantized(values_RC, codec)
    return codes.to(torch.uint8), scales_RB


def _quantized(values_RC: Tensor, codec: Codec) -> tuple[Tensor, Tensor]:
    """The same; only the lowest byte of the codes counts."""
    columns = values_RC.shape[1]
    values_RC, size = values_RC.float().contiguous(), min(codec.block, columns)
    magnitudes = values_RC.abs() if codec.signed else values_RC  # a second moment has no sign
    scales_RB = _pieces(magnitudes, size).amax(-1)
    if columns % size:  # of several pieces to a block the largest
        some = size // gcd(size, columns)
        scales_RB = F.pad(scales_RB, (0, -scales_RB.shape[1] % some)).view(len(values_RC), -1, some).amax(-1)
    scales_RB.clamp_(min=_LEAST)
    scaled_RC = (_pieces(values_RC, size) / _spread(scales_RB, size, columns)).view(values_RC.shape)
    bits = scaled_RC.view(torch.int32)
    growing = (bits >> 31).bitwise_xor_(bits) if codec.signed else bits
    upper = bits.bitwise_right_shift_(16) if codec.signed else bits >> 16
    index = upper.bitwise_and_(0xFFFF).view(-1).long()
    codes = torch.index_select(_carries(codec.bits, codec.signed, bits.device), 0, index).view(bits.shape)
    codes.add_(growing).bitwise_right_shift_(16)
    if codec.bits == 4:
        pairs = (F.pad(codes, (0, 1)) if codes.shape[1] % 2 else codes).to(torch.uint8).view(torch.int16)  # the first is its lower half
        codes = pairs << 4 | pairs >> 8
    return codes, scales_RB


def _pieces(values_RC: Tensor, size: int) -> Tensor:
    """Rows in equal pieces, none of which has elements of two blocks: blocks, where all are whole."""
    rows, columns = values_RC.shape
    return values_RC.view(rows, -1, gcd(size, columns))


def _spread(scales_RB: Tensor, size: int, columns: int) -> Tensor:
    """The scale of every such piece, ready to multiply it."""
    width = gcd(size, columns)
    return (scales_RB.repeat_interleave(size // width, 1)[:, : columns // width] if width < size else scales_RB)[:, :, None]


def dequantize(codes: Tensor, scales_RB: Tensor, columns: int, codec: Codec) -> Tensor:
    """(rows, columns) fp32 values."""
    table = codec.table(codes.device) if codec.bits == 8 else _pairs(codec.signed, codes.device)
    values_RC = table.index_select(0, codes.reshape(-1).long()).view(torch.float32).view(len(codes), -1)
    if values_RC.shape[1] > columns:
        values_RC = values_RC[:, :columns].contiguous()
    size = min(codec.block, columns)
    _pieces(values_RC, size).mul_(_spread(scales_RB, size, columns))
    return values_RC


def held_moment(key: str, shape: tuple[int, ...], dtype: torch.dtype, layout: Layout, codec: Codec | None) -> dict[str, Held]:
    """What a moment of this shape is kept as."""
    if codec is None:
        return {key: Held(layout, shape, dtype)}
    rows, columns = shape[0], prod(shape[1:])
    blocks = -(-columns // min(codec.block, columns))
    codes = (rows, columns if codec.bits == 8 else -(-columns // 2))
    return {f"{key}_codes": Held("quantized", codes, torch.uint8), f"{key}_scales": Held("quantized", (rows, blocks), torch.float32)}


def adam_rows_(
    target: Tensor, gradient: Tensor, state: dict[str, Any], kept: dict[str, Codec], *, betas: tuple[float, float], **knobs: float
) -> None:
    """``adam_`` of some rows of a weight, whose moments are kept as their codecs say: the target moves by them before they are rounded."""
    if not kept:
        adam_(target, gradient, local(state["exp_avg"]), local(state["exp_avg_sq"]), betas=betas, **knobs)
        return
    rows, columns = gradient.shape[0], prod(gradient.shape[1:])
    held = {key: (state[f"{key}_codes"], state[f"{key}_scales"]) for key in kept}
    first, second = (dequantize(*held[key], columns, codec).to(gradient.dtype).view(gradient.shape) for key, codec in kept.items())
    rounded = second.lerp(gradient.square(), 1 - betas[1])  # as the authors' code rounds it: the last digit may decide a code
    adam_(target, gradient, first, second, betas=betas, **knobs)
    for value, (key, codec) in zip((first, rounded), kept.items()):
        for part, found in zip(held[key], _quantized(value.view(rows, columns), codec)):
            part.copy_(found)


class KeepsCodes:
    """What an optimizer that keeps moments as codes offers growth: a weight's state in full numbers, and back at its new shape."""

    def kept(self, shape: tuple[int, ...]) -> dict[str, Codec]:
        """Codecs of the moments of a weight of this shape, by key; none where they are kept as they are."""
        raise NotImplementedError

    def in_full(self, held: dict[str, Any], axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Any]:
        """The state with whole moments, fp32 and shaped as the weight, in place of codes and scales."""
        found = dict(held)
        for key, codec in self.kept(shape).items():
            if f"{key}_codes" in found:
                codes, scales = found.pop(f"{key}_codes"), found.pop(f"{key}_scales")
                found[key] = dequantize(codes, scales, prod(shape[1:]), codec).reshape(shape)
        return found

    def in_codes(self, held: dict[str, Any], axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Any]:
        """The state as this optimizer keeps it at this shape; what holds codes already stays as it is."""
        found = dict(held)
        for key, codec in self.kept(shape).items():
            if key in found:
                value = found.pop(key)
                found[f"{key}_codes"], found[f"{key}_scales"] = quantize(value.reshape(shape[0], -1), codec)
        return found


def by_rows(state: dict[str, Any], gradient: Tensor, kept: dict[str, Codec]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Slices of rows to take in turn, each with views of its state, so that few numbers are ever held in full precision at once."""
    if not kept:
        yield ..., state
        return
    own = {key: local(value) for key, value in state.items() if key.endswith(("_codes", "_scales"))}
    for rows in slabs(gradient):
        yield rows, {key: value[rows] for key, value in own.items()}
