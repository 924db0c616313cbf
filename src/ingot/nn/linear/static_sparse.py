r"""Projection with a fixed random mask, the sparse stage of SPDF.   Thangarasa et al. 2023, arXiv:2303.10464, section 2.

    y = (M * W) x + b        M in {0, 1}: (1 - sparsity) inputs outputs ones, drawn once

Every matrix has the same sparsity; embeddings, norms, biases and the head stay dense, as in the paper. The mask (one byte per weight)
is saved with the model and drawn from the seed and the layer's name. The transform ``densify`` ends the sparse stage: it drops the
mask and lets the zeros learn.

DEPARTS: what is kept is drawn wider by 1 / sqrt(1 - sparsity), so that outputs start at a dense layer's size.

State: as dense; what the mask hides has gradient 0.   Cost: 2 inputs outputs operations per position: computed densely, on a device
without unstructured sparsity nothing is saved, and the ledger says so.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from ...core.axes import Role
from ...core.parts import part
from ._projection import Projection, normal, support


@part
class StaticSparse(Projection):
    """sparsity: share of zeros."""

    weight: Tensor
    mask: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        axes: tuple[str, str],
        role: Role = "matrix",
        *,
        sparsity: Annotated[float, Ge(0), Lt(1)] = 0.75,
    ):
        super().__init__(inputs, outputs, bias, axes, role)
        self.kept = max(1, round((1 - sparsity) * inputs * outputs))
        self.hold("weight", outputs, inputs, axes=axes)
        # bytes and not truth values, which not every collective can send
        self.register_buffer("mask", torch.zeros(outputs, inputs, dtype=torch.uint8))
        self.begin()

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        mask = torch.zeros(self.outputs * self.inputs, dtype=torch.uint8, device="cpu")
        mask[support(generator, self.kept, mask.numel())] = 1
        mask = mask.view(self.outputs, self.inputs)
        wider = std * (mask.numel() / self.kept) ** 0.5
        return {"mask": mask, "weight": normal(generator, wider, self.outputs, self.inputs) * mask}

    def effective(self) -> Tensor:
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.mask, self.bias_as(x.dtype))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kept={self.kept}"
