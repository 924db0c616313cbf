r"""Sparse plus low-rank projection (SLTrain).   Han et al. 2024, arXiv:2406.02214, equation 1 and Algorithm 1.

    y = (s B A + S) x + b        s = alpha / r,   S: zero but at round(density inputs outputs) fixed random places

A: (r, inputs) is ``right``, B: (outputs, r) is ``left``; ``values`` are the trained entries of S, ``places`` (int32, saved with the
model) where they stand, row by row. The places are drawn from the seed and the layer's name, uniformly without replacement.

W is put together for the product and never kept for the backward pass, which computes it again; of the gradient of W only its
images in A, B and the places are kept.

DEPARTS: the reference starts from B = 0 and values of its own size; here B A and the values are drawn together, so that W has a
dense matrix's mean square.

Width transfer: A and the values have the rate of a hidden matrix, B that of one with fixed inputs (the rank).
State: optimizer state of r (inputs + outputs) + density inputs outputs weights; 4 bytes per place.
Cost: 2 inputs outputs operations per position as dense, and 2 r inputs outputs per pass for each of W twice, A's and B's gradient.
It saves memory, not arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from ...core.axes import Role, label
from ...core.parts import Positive, part
from ._projection import Projection, normal, support, too_narrow
from .low_rank import scaled_factors


@part
class SLTrain(Projection):
    """rank: r. density: share of W's entries that S holds. alpha: of the factor s."""

    left: Tensor
    right: Tensor
    places: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        axes: tuple[str, str],
        role: Role = "matrix",
        *,
        rank: Positive[int],
        density: Annotated[float, Gt(0), Lt(1)] = 0.03,
        alpha: Positive[float] = 32.0,
    ):
        super().__init__(inputs, outputs, bias, axes, role)
        self.rank = min(rank, inputs, outputs)
        self.scale = alpha / self.rank
        self.count = max(1, round(density * inputs * outputs))
        self.hold("left", outputs, self.rank, axes=(axes[0], "rank"))
        self.hold("right", self.rank, inputs, axes=("rank", axes[1]))
        self.values = nn.Parameter(torch.empty(self.count))
        label(self, "values", "support", role="matrix", whole=self.whole)
        self.register_buffer("places", torch.zeros(self.count, dtype=torch.int32))
        self.begin()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from too_narrow(context, knobs["rank"])

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        share = self.count / (self.inputs * self.outputs)  # places hold a product and a value, the others a product alone
        factors = scaled_factors(generator, std * (1 - share) ** 0.5 / self.scale, self.outputs, self.inputs, self.rank)
        places = support(generator, self.count, self.inputs * self.outputs)
        return factors | {"values": normal(generator, std, self.count), "places": places}

    def effective(self) -> Tensor:
        return _matrix(self.left, self.right, self.values, self.places, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        held = (self.left.to(x.dtype), self.right.to(x.dtype), self.values.to(x.dtype))
        y: Tensor = _Product.apply(x, *held, self.places, self.scale)  # type: ignore[no-untyped-call]
        return self.plus_bias(y)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}, places={self.count}"


def _matrix(left: Tensor, right: Tensor, values: Tensor, places: Tensor, scale: float) -> Tensor:
    """W, (outputs, inputs)."""
    product = (left * scale) @ right
    return product.view(-1).index_add(0, places, values).view(product.shape)


class _Product(torch.autograd.Function):
    """W x without keeping W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, left: Tensor, right: Tensor, values: Tensor, places: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, left, right, values, places)
        ctx.scale = scale
        return x @ _matrix(left, right, values, places, scale).t()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, left, right, values, places = ctx.saved_tensors
        g = gradients[0]
        x_gradient = g @ _matrix(left, right, values, places, ctx.scale) if ctx.needs_input_grad[0] else None
        whole = g.reshape(-1, g.shape[-1]).t() @ x.reshape(-1, x.shape[-1])
        of_values = whole.reshape(-1).index_select(0, places)
        return x_gradient, (whole @ right.t()) * ctx.scale, (left.t() @ whole) * ctx.scale, of_values, None, None
