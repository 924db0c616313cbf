r"""Convolutions over a waveform, 20 ms a position.   Baevski et al. 2020 (wav2vec 2.0), arXiv:2006.11477, section 2 and 4.2.

    z = gelu(norm(conv_7(... gelu(norm(conv_1(w)))))        w: the samples at mean 0, variance 1 of the row
    x = dropout(norm(p + gelu(conv(p))))                    p = W norm(z) + b, hidden positions replaced, padding zero

waveform (B, S), lengths (B,) -> x_BTD, T = S / 320 or so   z: (B, T, C)   W: (D, C)   conv: over K neighbors, in groups

``first``: only the first convolution is followed by a norm, over time (base models); ``all``: each is, over channels (large models,
data2vec). DEPARTS: the norm over time leaves padding out, so that a row does not depend on how much of it there is.
Rows lie end to end, each with room for the convolutions (ops/convolution.py). Padding gets segment 0. z is left for objectives in ``context.shared["stem"]``.   Cost: 2 C_in C_out K per output of each convolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import label
from ...core.errors import UserError
from ...core.parts import Fraction, NonNegative, Positive, Slot, part
from ...core.seams import Field
from ...ops.norm_over_time import norm_over_time
from ..context import Context
from ..dropout import Dropout
from ..linear.dense import Dense
from ._convolutions import Convolution, RelativePosition, real_positions


class StemNorm(nn.Module):
    """Gain and shift of a channel, around a norm over time or over channels."""

    def __init__(self, channels: int, over_time: bool):
        super().__init__()
        self.over_time = over_time
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        label(self, "weight", "channels", role="scale")
        label(self, "bias", "channels", role="bias")

    def forward(self, x_BTC: Tensor, length_B: Tensor) -> Tensor:
        if self.over_time:
            return norm_over_time(x_BTC, length_B, self.weight, self.bias)
        return F.layer_norm(x_BTC, self.weight.shape, self.weight.to(x_BTC.dtype), self.bias.to(x_BTC.dtype))


@part
class Waveform(nn.Module):
    """channels: C of every convolution. kernels, strides: of each. norms: see above. bias: of the convolutions. project_norm: on z,
    none for no norm. normalize: bring each row to mean 0, variance 1. neighbors: K of the positional convolution, 0 for none; groups: of
    it; layers: how many there are. gradient: factor on what the convolutions receive. norm, dropout: on the result; stem_dropout: on p."""

    reads: tuple[str, ...] = ("waveform",)
    leading = 0
    of_width = True  # groups of the positional convolution hold features side by side

    def __init__(
        self,
        width: int,
        sequence: int,
        fields: Mapping[str, Field] | None = None,
        *,
        channels: Positive[int] = 512,
        kernels: list[Positive[int]] = [10, 3, 3, 3, 3, 2, 2],
        strides: list[Positive[int]] = [5, 2, 2, 2, 2, 2, 2],
        norms: Literal["first", "all"] = "first",
        bias: bool = False,
        project_norm: Slot["nn.norm"] | None = "layer",
        normalize: bool = True,
        neighbors: NonNegative[int] = 128,
        groups: Positive[int] = 16,
        layers: Positive[int] = 1,
        gradient: Positive[float] = 1.0,
        norm: Slot["nn.norm"] | None = "layer",
        dropout: Fraction = 0.0,
        stem_dropout: Fraction = 0.0,
    ):
        super().__init__()
        self.channels, self.normalize, self.gradient = channels, normalize, gradient
        self.stride = prod(strides)
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for index, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            self.convolutions.append(Convolution(channels if index else 1, channels, kernel, stride=stride, bias=bias))
            if norms == "all" or not index:
                self.norms.append(StemNorm(channels, over_time=norms == "first"))
        self.project_norm = project_norm.build(width=channels, axis="channels") if project_norm else None
        self.project = Dense(inputs=channels, outputs=width, bias=True, axes=("width", "channels"), role="embedding")
        self.position = RelativePosition(width, neighbors, groups, layers) if neighbors else None
        self.norm = norm.build(width=width) if norm else None
        self.stem_dropout, self.dropout = Dropout(stem_dropout), Dropout(dropout)
        self.longest = sequence
        if fields and "waveform" in fields:
            self.longest = int(self._out(fields["waveform"].shape[0]))
            if self.longest < 1:
                raise UserError(
                    f"the waveform stem makes nothing of a row of {fields['waveform'].shape[0]} samples; make data.train.seconds longer"
                )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        kernels, strides, width = knobs["kernels"], knobs["strides"], context.get("width")
        if not kernels or len(kernels) != len(strides):
            yield f"kernels and strides want as many numbers, got {len(kernels)} and {len(strides)}"
        if knobs["neighbors"] and width is not None and width % knobs["groups"]:
            yield f"{knobs['groups']} groups do not divide the model width {width}"

    def _out(self, length: Any) -> Any:
        for convolution in self.convolutions:
            length = convolution.out(length)  # type: ignore[operator]
        return length

    def _room(self, size: int) -> int:
        """Samples that a row of ``size`` takes, for every convolution to find as many positions as it needs in whole strides."""
        sizes, strides = [size], [int(convolution.stride) for convolution in self.convolutions]  # type: ignore[arg-type]
        for convolution in self.convolutions:
            sizes.append(convolution.out(sizes[-1]))  # type: ignore[operator]
        return self.stride * max(-(-each // prod(strides[index:])) for index, each in enumerate(sizes))

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(T,)."""
        return (int(self._out(batch["waveform"].shape[1])),)

    def lengths(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Positions that are not padding."""
        return self._out(batch["lengths"]).clamp(min=0) if "lengths" in batch else None  # type: ignore[no-any-return]

    def stem(self, batch: dict[str, Tensor], dtype: torch.dtype | None = None) -> Tensor:
        """z before its norm, (B, T, C). dtype: what the convolutions compute in, that of their weights when not given."""
        length_B: Tensor | None = batch.get("lengths")
        x_BS = batch["waveform"].to(self.convolutions[0].weight.dtype)  # type: ignore[union-attr, arg-type]
        if self.normalize:
            x_BS = _normalized(x_BS, length_B)
        B, size = x_BS.shape
        real_B = torch.full((B,), size, device=x_BS.device) if length_B is None else length_B
        x_MC = F.pad(x_BS, (0, self._room(size) - size)).to(dtype or x_BS.dtype).reshape(-1, 1)
        for index, convolution in enumerate(self.convolutions):
            x_MC, size, real_B = convolution.along(x_MC), convolution.out(size), convolution.out(real_B)  # type: ignore[operator]
            if index < len(self.norms):
                x_MC = self.norms[index](x_MC.view(B, -1, self.channels), real_B).view(x_MC.shape)
            x_MC = F.gelu(x_MC)
        z_BTC = x_MC.view(B, -1, self.channels)[:, :size]
        return _scaled(z_BTC, self.gradient) if self.gradient != 1 else z_BTC

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        z_BTC = self.stem(batch, context.dtype)
        z_BTC = z_BTC if self.project_norm is None else self.project_norm(z_BTC)
        context.shared["stem"] = (z_BTC,)
        x_BTD: Tensor = context.hide(self.stem_dropout(self.project(z_BTC), context))
        length_B = self.lengths(batch)
        if length_B is not None:
            context.segments_BT = real_positions(length_B, x_BTD.shape[1])
            x_BTD = x_BTD * context.segments_BT[..., None].to(x_BTD.dtype)
        if self.position is not None:
            x_BTD = x_BTD + self.position(x_BTD)
        x_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
        return self.dropout(x_BTD, context)


def _normalized(x_BS: Tensor, length_B: Tensor | None) -> Tensor:
    """Every row's real samples to mean 0, variance 1; the padding is 0."""
    real_BS = torch.ones_like(x_BS) if length_B is None else real_positions(length_B, x_BS.shape[1]).to(x_BS.dtype)
    count_B1 = real_BS.sum(dim=1, keepdim=True).clamp(min=1)
    x_BS = (x_BS - (x_BS * real_BS).sum(dim=1, keepdim=True) / count_B1) * real_BS
    return x_BS * (x_BS.square().sum(dim=1, keepdim=True) / count_B1 + 1e-7).rsqrt()


def _scaled(x: Tensor, factor: float) -> Tensor:
    """x, with a gradient that is multiplied."""
    return x * factor + x.detach() * (1 - factor)
