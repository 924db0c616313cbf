r"""Projection in simulated low-bit arithmetic: fp8 or int8 weights and inputs.   Micikevicius et al. 2022, arXiv:2209.05433 (e4m3,
e5m2); Peng et al. 2023, arXiv:2310.18313; int8: Wortsman et al. 2023, arXiv:2304.13013, section 2.

    y = s_w s_x (W~ x~) + b        W~ = round(W / s_w),  s_w = max |W| / most, per row of W or per matrix
                                   x~ = round(x / s_x),  s_x = max |x| / most, per position

round is to the nearest number of the format, whose largest is `most`: 448 (e4m3), 57344 (e5m2) or 127 (int8). Gradients pass it
unchanged (straight through), and are themselves rounded per position, before both products of the backward pass, where `gradients`
names a format. Inputs have no scale per tensor: a row would then depend on the others of its micro-batch.

Codes are exact in bf16, so the products are those of a low-bit kernel with wide accumulation. Masters are full precision.

State: as dense.   Cost: 2 inputs outputs operations per position in the compute dtype: a study of the arithmetic, not a saving.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.axes import Role
from ...core.parts import part
from ._projection import Projection, at_least_single, normal, straight_through

Format = Literal["e4m3", "e5m2", "int8"]
MOST: dict[str, float] = {"e4m3": 448.0, "e5m2": 57344.0, "int8": 127.0}
_DTYPE = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
EPS = 1e-12


@part
class Quantized(Projection):
    """format: of weights and inputs. scales: one per row of the matrix, or one for all. gradients: their format, or none."""

    weight: Tensor
    rounds = True
    exact = False

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        axes: tuple[str, str],
        role: Role = "matrix",
        *,
        format: Format = "e4m3",
        scales: Literal["row", "tensor"] = "row",
        gradients: Format | None = None,
    ):
        super().__init__(inputs, outputs, bias, axes, role)
        self.format, self.scales, self.gradients = format, scales, gradients
        self.hold("weight", outputs, inputs, axes=axes)
        self.begin()

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        return {"weight": normal(generator, std, self.outputs, self.inputs)}

    def effective(self) -> Tensor:
        scaled, scale = self._scaled_weight()
        return round_to(scaled.detach(), self.format) * scale

    def _scaled_weight(self) -> tuple[Tensor, Tensor]:
        work = self.weight.to(at_least_single(self.weight.dtype))
        size = work.detach().abs()
        scale = (size.amax(dim=1, keepdim=True) if self.scales == "row" else size.amax().view(1, 1)).clamp(min=EPS) / MOST[self.format]
        return work / scale, scale

    def forward(self, x: Tensor) -> Tensor:
        scaled_w, scale_w = self._scaled_weight()
        work = x.to(at_least_single(x.dtype))
        scale_x = work.detach().abs().amax(dim=-1, keepdim=True).clamp(min=EPS) / MOST[self.format]
        scaled_x = work / scale_x
        w = straight_through(scaled_w, round_to(scaled_w, self.format)).to(x.dtype)
        codes = straight_through(scaled_x, round_to(scaled_x, self.format)).to(x.dtype)
        y = (F.linear(codes, w) * (scale_x * scale_w.t())).to(x.dtype)
        if self.gradients is not None:
            y = _RoundedGradient.apply(y, self.gradients)  # type: ignore[no-untyped-call]
        return self.plus_bias(y)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, format={self.format}, scales={self.scales}, gradients={self.gradients}"


def round_to(scaled: Tensor, format: str) -> Tensor:
    """The nearest numbers of the format, ties to even, in the dtype given; values beyond its largest take that."""
    scaled = scaled.detach().clamp(-MOST[format], MOST[format])
    return scaled.round() if format == "int8" else scaled.to(_DTYPE[format]).to(scaled.dtype)


class _RoundedGradient(torch.autograd.Function):
    """The identity, whose gradient is rounded to a format with a scale per position."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, format: str) -> Tensor:
        ctx.format = format
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        g = gradients[0].to(at_least_single(gradients[0].dtype))
        scale = g.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / MOST[ctx.format]
        return (round_to(g / scale, ctx.format) * scale).to(gradients[0].dtype), None
