r"""Mel bands over time, through convolutions.   Radford et al. 2022 (Whisper), arXiv:2212.04356, section 2.2.

    x = dropout(norm(h_n + P))        h_i = gelu(conv_i(h_{i-1})), h_0 the bands; the last convolution has stride 2

frames (B, F, M), lengths (B,) -> x_BTD, T = F / 2   conv_1: (D, M, 3)   conv_2: (D, D, 3)   P: (T, D)

Sources of sound give frames where their ``mels`` is set. Padding is zero before every convolution and gets segment 0.
Cost: 6 M D operations per frame and 6 D^2 per position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError
from ...core.parts import Fraction, Positive, Slot, part
from ...core.seams import Field
from ..context import Context
from ..dropout import Dropout
from ._convolutions import Convolution, real_positions
from ._placed import placed, refuse_turning


@part
class LogMel(nn.Module):
    """mels: bands, those of the data when not given. strides: of each convolution. position: added positions. norm, dropout: on the
    result."""

    reads: tuple[str, ...] = ("frames",)
    leading = 0

    def __init__(
        self,
        width: int,
        sequence: int,
        fields: Mapping[str, Field] | None = None,
        *,
        mels: Positive[int] | None = None,
        strides: list[Positive[int]] = [1, 2],
        position: Slot["nn.position"] | None = "sincos",
        norm: Slot["nn.norm"] | None = None,
        dropout: Fraction = 0.0,
    ):
        super().__init__()
        known = (fields or {}).get("frames")
        self.mels = mels or (known.shape[1] if known else None)
        if self.mels is None:
            raise UserError("embedding.mels: the data gives no frames; set data.train.mels")
        self.stride = 1
        self.convolutions = nn.ModuleList()
        for index, stride in enumerate(strides):
            inputs, axes = (width, ("width", "width_in")) if index else (self.mels, ("width", "mels"))
            self.convolutions.append(Convolution(inputs, width, 3, stride=stride, padding=1, axes=axes))
            self.stride *= stride
        self.longest = int(self._out(known.shape[0])) if known else sequence
        self.position = position.build(width=width, sequence=self.longest, grid=(self.longest,), leading=0) if position else None
        self.norm = norm.build(width=width) if norm else None
        self.dropout = Dropout(dropout)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from refuse_turning(knobs["position"])
        if not knobs["strides"]:
            yield "strides wants one number for each convolution"

    def settled(self) -> dict[str, Any]:
        """What the data decided."""
        return {"mels": self.mels}

    def _out(self, length: Any) -> Any:
        for convolution in self.convolutions:
            length = convolution.out(length)  # type: ignore[operator]
        return length

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(T,)."""
        return (int(self._out(batch["frames"].shape[1])),)

    def lengths(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Positions that are not padding."""
        return self._out(batch["lengths"]) * (batch["lengths"] > 0) if "lengths" in batch else None  # type: ignore[no-any-return]

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        x, length_B = batch["frames"].mT.to(context.dtype or self.convolutions[0].weight.dtype), batch.get("lengths")  # type: ignore[arg-type]
        if x.shape[1] != self.mels:
            raise UserError(f"the model reads {self.mels} mel bands, the data gives {x.shape[1]}")
        for convolution in self.convolutions:
            if length_B is not None:
                x = x * real_positions(length_B, x.shape[2])[:, None].to(x.dtype)
                length_B = convolution.out(length_B) * (length_B > 0)  # type: ignore[operator]
            x = F.gelu(convolution(x))
        x_BTD = context.hide(x.mT)
        if length_B is not None:
            context.segments_BT = real_positions(length_B, x_BTD.shape[1])
        return placed(self, x_BTD, context)
