r"""2:4 sparse projection with continuous pruning (S-STE).   Hu et al. 2024, arXiv:2409.09099, section 4; gradients: Chmiel et al. 2022,
arXiv:2203.10991, section 4.

    y = beta S(W) x + b        S(a)_i = sign(a_i) max(|a_i| - t, 0),   t: the second smallest |a| of each group of 4 along the inputs

Two of every four weights are zero, and S is continuous, so that a weight that crosses the threshold moves the output by nothing.
beta, one number per matrix that minimizes |W - beta S(W)|^2 at the start, is fixed then and saved with the model. The gradient of
beta S(W) is W's (straight through, without beta).

unbiased: the output's gradient is made 2:4 sparse along positions before it is multiplied with the input for W's gradient. Of each
group of 4, two are kept with probabilities min(1, c |a_i|) that sum to 2, and divided by them: unbiased, with the least variance.
The draw is systematic, from a hash of the group's place in its row and of its values' leading bits (no generator), so it is the same
on resume, and the same for a row however rows are split, but for the rare value that rounding moves across a leading bit. Of input
with one vector a row, (rows, inputs), the gradient stays dense: rows are not to be mixed.

W is drawn wider, so that beta S(W) has a dense matrix's mean square.

State: as dense, and beta.   Cost: 2 inputs outputs operations per position: computed densely; a device with 2:4 products would halve
the products, which is not claimed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.axes import Role
from ...core.errors import UserError
from ...core.parts import part
from ._projection import Projection, at_least_single, normal, rms


@part
class Sparse24(Projection):
    """unbiased: sparse output gradients for the gradient of W."""

    weight: Tensor
    scale: Tensor
    rounds = True

    def __init__(self, inputs: int, outputs: int, bias: bool, axes: tuple[str, str], role: Role = "matrix", *, unbiased: bool = False):
        super().__init__(inputs, outputs, bias, axes, role)
        if inputs % 4:
            raise UserError(f"sparse24 prunes two of every four inputs; {inputs} {axes[1]} inputs are not a multiple of 4")
        self.unbiased = unbiased
        self.hold("weight", outputs, inputs, axes=axes)
        self.register_buffer("scale", torch.ones(()))
        self.begin()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        width = context.get("width")
        if width is not None and width % 4:
            yield f"sparse24 prunes two of every four inputs; the model width {width} is not a multiple of 4"

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        weight = normal(generator, 1.0, self.outputs, self.inputs)
        pruned = soft_threshold(weight)
        scale = best_scale(weight, pruned)
        return {"weight": weight * (std / rms(scale * pruned)), "scale": scale}

    def effective(self) -> Tensor:
        return soft_threshold(self.weight) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        w: Tensor = _Pruned.apply(self.weight, self.scale)  # type: ignore[no-untyped-call]
        if not self.unbiased or x.dim() < 3:
            return F.linear(x, w.to(x.dtype), self.bias_as(x.dtype))
        y: Tensor = _Product.apply(x, w.to(x.dtype))  # type: ignore[no-untyped-call]
        return self.plus_bias(y)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, unbiased={self.unbiased}"


def soft_threshold(weight: Tensor) -> Tensor:
    """S(W), groups of four along the last dimension; without gradient."""
    groups = weight.detach().reshape(-1, 4)
    a, b, c, d = groups.abs().unbind(1)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    other_low, other_high = torch.minimum(c, d), torch.maximum(c, d)
    second = torch.minimum(torch.maximum(low, other_low), torch.minimum(high, other_high))
    return F.relu(groups.abs() - second[:, None]).copysign(groups).view(weight.shape)


def best_scale(weight: Tensor, pruned: Tensor) -> Tensor:
    """The factor on pruned that brings it closest to weight in mean square; 1 where nothing is left."""
    square = pruned.double().square().sum()
    return torch.where(square > 0, (weight.double() * pruned.double()).sum() / square.clamp(min=1e-300), 1.0).to(weight.dtype)


class _Pruned(torch.autograd.Function):
    """beta S(W), straight through."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        return soft_threshold(weight) * scale.to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


class _Product(torch.autograd.Function):
    """W x, with the weight's gradient from a 2:4 sparse estimate of the output's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, Any]:
        x, weight = ctx.saved_tensors
        g = gradients[0]
        sparse_NO = unbiased24(g).reshape(-1, weight.shape[0])
        return g @ weight if ctx.needs_input_grad[0] else None, sparse_NO.t() @ x.reshape(-1, x.shape[-1])


def unbiased24(values: Tensor) -> Tensor:
    """values (..., positions, outputs) with two of every four positions kept, each over its probability; unbiased, least variance."""
    positions, outputs = values.shape[-2:]
    work = F.pad(values.to(at_least_single(values.dtype)), (0, 0, 0, -positions % 4)).view(*values.shape[:-2], -1, 4, outputs)
    size = work.abs()
    total, largest = size.sum(-2, keepdim=True), size.amax(-2, keepdim=True)
    # one value that outweighs the other three is kept for certain, and one of the three beside it
    heavy = 2 * largest > total
    first = (torch.arange(4, device=size.device)[:, None] == size.argmax(-2, keepdim=True)) & heavy
    rest = torch.where(heavy, total - largest, total / 2)
    tiny = torch.finfo(size.dtype).tiny
    share = torch.where(first, 1.0, size / rest.clamp(min=tiny)).clamp(max=1)
    ends = share.cumsum(-2)
    ends = torch.cat([ends[..., :3, :], torch.where(total > 0, 2.0, ends[..., 3:, :])], dim=-2)
    kept = (ends - _uniform(work)).ceil().clamp(min=0).diff(dim=-2, prepend=torch.zeros_like(total)) > 0
    found = torch.where(kept & (share > 0), work / share.clamp(min=tiny), 0.0)
    return found.flatten(-3, -2)[..., :positions, :].to(values.dtype)


def _uniform(work: Tensor) -> Tensor:
    """For work (..., groups, 4, outputs) numbers (..., groups, 1, outputs) in [0, 1): 32-bit mixing, as in ops.random.

    From sign, exponent and three bits of each value, because the rest differs by rounding between ways to compute the same row.
    """
    bits = work.to(torch.float32).view(torch.int32) >> 20
    groups, _, outputs = bits.shape[-3:]
    x = torch.arange(groups * outputs, dtype=torch.int32, device=bits.device).view(groups, outputs) * -1640531527
    for index in range(4):
        x = _mixed(x ^ bits[..., index, :])
    return ((x >> 8) & 0xFFFFFF).to(work.dtype).unsqueeze(-2) * 2.0**-24


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261
    return x ^ ((x >> 16) & 0xFFFF)
