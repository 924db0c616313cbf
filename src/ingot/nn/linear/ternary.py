r"""Ternary projection with 8-bit activations (BitNet b1.58).   Ma et al. 2024, arXiv:2402.17764, equations 1 to 3; Wang et al. 2023,
arXiv:2310.11453, for activations and the norm.

    y = gamma s (W~ x~) + b        W~ = clip(round(W / gamma), -1, 1),   gamma = mean |W|
                                   x~ = clip(round(x' / s), -128, 127),  s = max |x'| / 127 per position,   x' = norm(x)

Gradients pass the rounding unchanged (straight through): W learns as if y = W x' had been computed with W~ and x~. The products are
of small integers, which bf16 holds exactly; scales are computed in fp32. Masters are full precision: training saves no memory.

The norm inside replaces none outside: DEPARTS from the paper's code, which drops the block's own norm before attention and
feed-forward. `norm: null` leaves it out. W is drawn wider, so that gamma W~ has a dense matrix's mean square.

State: as dense.   Cost: 2 inputs outputs operations per position, computed as a dense product: what a ternary kernel would save is
not claimed. Row-wise: a position's outputs depend on no other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.axes import Role
from ...core.parts import Slot, part
from ._projection import Projection, at_least_single, normal, rms, straight_through

EPS = 1e-5


@part
class Ternary(Projection):
    """norm: on the input. activations: bits of the input's codes; none leaves the input as it is."""

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
        norm: Slot["nn.norm"] | None = "rms",
        activations: bool = True,
    ):
        super().__init__(inputs, outputs, bias, axes, role)
        self.activations = activations
        self.hold("weight", outputs, inputs, axes=axes)
        self.norm = norm.build(width=inputs, axis=axes[1]) if norm else None
        self.begin()

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        weight = normal(generator, 1.0, self.outputs, self.inputs)
        codes, scale = ternary(weight)
        return {"weight": weight * (std / rms(codes * scale))}

    def effective(self) -> Tensor:
        codes, scale = ternary(self.weight)
        return codes * scale

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        codes, scale = ternary(self.weight)
        w = straight_through(self.weight.to(scale.dtype) / scale, codes).to(x.dtype)
        if self.activations:
            work = x.to(at_least_single(x.dtype))
            step = work.detach().abs().amax(dim=-1, keepdim=True).clamp(min=EPS) / 127
            scaled = work / step
            scale = scale * step
            x = straight_through(scaled, scaled.round().clamp(-128, 127)).to(x.dtype)
        return self.plus_bias((F.linear(x, w) * scale).to(x.dtype))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activations={self.activations}"


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} and their scale (), in fp32 at least, without gradient."""
    work = weight.detach().to(at_least_single(weight.dtype))
    scale = work.abs().mean().clamp(min=EPS)
    return (work / scale).round().clamp(-1, 1), scale
