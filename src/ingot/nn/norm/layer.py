r"""Layer normalization.   Ba et al. 2016, arXiv:1607.06450, section 3.1.

y_i = g_i (x_i - mean(x)) / sqrt(var(x) + eps) + b_i        computed in fp32 at least, returned in the dtype of x
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.axes import label
from ...core.parts import Positive, part
from ...ops.norms import layer_norm


@part
class Layer(nn.Module):
    """x: (..., width) -> the same. gain, bias: whether each feature has a learned gain and shift."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, width: int, axis: str = "width", *, eps: Positive[float] = 1e-5, gain: bool = True, bias: bool = True):
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if gain else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        if gain:
            label(self, "weight", axis, role="scale")
        if bias:
            label(self, "bias", axis, role="bias")

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.width}, eps={self.eps}"
