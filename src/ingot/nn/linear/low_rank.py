r"""Factorized projection of a fixed rank.   Khodak et al. 2021, arXiv:2105.01029, sections 2 and 3.1.

    y = B (A x) + b        W = B A,   A: (r, inputs) is ``right``,   B: (outputs, r) is ``left``,   r = min(rank, inputs, outputs)

start: "spectral" draws a dense matrix and keeps its best rank-r approximation, B = U sqrt(S), A = sqrt(S) V^T; "scaled" draws A and
B normal, A with variance 1 / inputs. In both, W has the mean square that a dense matrix would have, so outputs start at its size.

DEPARTS: the truncated spectral start is scaled up to the dense mean square (by B). No Frobenius decay of the product.

Width transfer: the rank is a number of the recipe and stays; A has the rate of a hidden matrix, B that of one with fixed inputs.
State: optimizer state of r (inputs + outputs) weights.   Cost: 2 r (inputs + outputs) operations per position; less than dense
where r < inputs outputs / (inputs + outputs).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.axes import Role
from ...core.parts import Positive, part
from ._projection import Projection, normal, rms, too_narrow


@part
class LowRank(Projection):
    """rank: r. start: how W is drawn."""

    left: Tensor
    right: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        axes: tuple[str, str],
        role: Role = "matrix",
        *,
        rank: Positive[int],
        start: Literal["spectral", "scaled"] = "spectral",
    ):
        super().__init__(inputs, outputs, bias, axes, role)
        self.rank, self.start = min(rank, inputs, outputs), start
        self.hold("left", outputs, self.rank, axes=(axes[0], "rank"))
        self.hold("right", self.rank, inputs, axes=("rank", axes[1]))
        self.begin()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from too_narrow(context, knobs["rank"])

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        if self.start == "scaled" or std == 0:
            return scaled_factors(generator, std, self.outputs, self.inputs, self.rank)
        dense = normal(generator, std, self.outputs, self.inputs)
        u, s, v = torch.linalg.svd(dense, full_matrices=False)
        left, right = u[:, : self.rank] * s[: self.rank].sqrt(), s[: self.rank].sqrt()[:, None] * v[: self.rank]
        return {"left": left * (rms(dense) / rms(left @ right)), "right": right}

    def effective(self) -> Tensor:
        return self.left @ self.right

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.right.to(x.dtype)), self.left.to(x.dtype), self.bias_as(x.dtype))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


def scaled_factors(generator: torch.Generator, std: float, outputs: int, inputs: int, rank: int) -> dict[str, Tensor]:
    """left and right, whose product has entries of this standard deviation; right keeps the size of what it is given."""
    right = normal(generator, inputs**-0.5, rank, inputs)
    return {"left": normal(generator, std * (inputs / rank) ** 0.5, outputs, rank), "right": right}
