r"""Dense projection.

    y = W x + b        W: (outputs, inputs), as torch.nn.Linear stores it; cast to the dtype of x

State: none.   Cost: 2 * inputs * outputs operations per position.

No paper: it is what the others depart from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import Role, label
from ...core.parts import part


@part
class Dense(nn.Module):
    """x: (..., inputs) -> (..., outputs). Parameters are masters in their own dtype; the product has the dtype of x."""

    exact = True

    def __init__(self, inputs: int, outputs: int, bias: bool, axes: tuple[str, str], role: Role = "matrix"):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", *axes, role=role)
        if bias:
            label(self, "bias", axes[0], role="bias")

    def effective(self) -> Tensor:
        """W, (outputs, inputs), as every linear of the slot gives it."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, outputs={self.outputs}, bias={self.bias is not None}"
