r"""RMS normalization.   Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.

y_i = g_i x_i / sqrt(mean_j(x_j^2) + eps)        computed in fp32 at least, returned in the dtype of x
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.axes import label
from ...core.parts import Positive, part
from ...ops.norms import rms_norm


@part
class RMS(nn.Module):
    """x: (..., width) -> the same. gain: whether each feature has a learned gain."""

    weight: Tensor | None

    def __init__(self, width: int, axis: str = "width", *, eps: Positive[float] = 1e-6, gain: bool = True):
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if gain else None
        if gain:
            label(self, "weight", axis, role="scale")

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.width}, eps={self.eps}"
