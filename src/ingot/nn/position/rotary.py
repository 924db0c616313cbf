r"""Rotary positions.   Su et al. 2021, arXiv:2104.09864, equation 34, pairing feature i with i + d/2 (GPT-NeoX's order).

    f_i = theta^(-2i/d)        (x_i, x_{i+d/2}) is turned by the angle position * f_i

With ``scaling`` (Llama 3.1): frequencies whose wavelength is above original/low are divided by it, those below original/high
are kept, between them the two are interpolated linearly in original/wavelength.

Shapes: x_BHTd; angles (B, T, d/2).   No parameters, no table: any position is valid.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...core.parts import Positive, part
from ...ops.rotary import rotate


@part
class Rotary(nn.Module):
    """Turns queries and keys. theta: base of the frequencies. scaling, low, high, original: Llama 3.1's stretching of long waves."""

    rotates = True

    def __init__(
        self,
        head_dim: int,
        *,
        theta: Positive[float] = 10000.0,
        scaling: Positive[float] | None = None,
        low: Positive[float] = 1.0,
        high: Positive[float] = 4.0,
        original: Positive[int] = 8192,
    ):
        super().__init__()
        self.head_dim, self.theta = head_dim, theta
        self.scaling, self.low, self.high, self.original = scaling, low, high, original
        self.name = f"rotary/{head_dim}/{theta}/{scaling}/{low}/{high}/{original}"

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        if knobs["scaling"] is not None and knobs["low"] >= knobs["high"]:
            yield f"rotary scaling wants low below high, got low={knobs['low']:g} and high={knobs['high']:g}"

    def frequencies(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(d/2,) turns in radians per position."""
        exponents = torch.arange(0, self.head_dim, 2, device=device).to(dtype) / self.head_dim
        f = 1.0 / self.theta**exponents
        if self.scaling is None:
            return f
        smooth = (self.original * f / (2 * torch.pi) - self.low) / (self.high - self.low)
        smooth = smooth.clamp(0, 1)
        return (1 - smooth) * f / self.scaling + smooth * f

    def angles(self, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (B, 1, T, d/2) each in dtype, computed in fp32 at least."""
        wide = torch.promote_types(dtype, torch.float32)
        angle = positions_BT[:, None, :, None].to(wide) * self.frequencies(positions_BT.device, wide)
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def forward(self, x_BHTd: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        return rotate(x_BHTd, *angles)

    def extra_repr(self) -> str:
        return f"theta={self.theta}" + (f", scaling={self.scaling}" if self.scaling else "")
