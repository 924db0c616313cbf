"""Layers between what a row is and what is compared: a stack of linear layers, and the mean cross entropy of matching pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.parts import Spec


class Projection(nn.Module):
    """Linear layers with GELU, and a norm where one is given, between them; the last one plain. sizes: features after each layer."""

    def __init__(self, width: int, sizes: Sequence[int], linear: Spec, norm: Spec | None = None, bias: bool = True):
        super().__init__()
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        inputs, axis = width, "width"
        for number, size in enumerate(sizes):
            output = "projection" if number == len(sizes) - 1 else "hidden"
            self.layers.append(linear.build(inputs=inputs, outputs=size, bias=bias, axes=(output, axis), role="matrix"))
            if norm is not None and number < len(sizes) - 1:
                self.norms.append(norm.build(width=size, axis="hidden"))
            inputs, axis = size, output

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number < len(self.layers) - 1:
                x = F.gelu(self.norms[number](x) if len(self.norms) else x)
        return x


def unit(x: Tensor) -> Tensor:
    """Brought to length 1, in fp32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def picked(scores_MN: Tensor, allowed_MN: Tensor, target_M: Tensor) -> Tensor:
    """-log softmax over the allowed columns at the target, (M,)."""
    masked = scores_MN.masked_fill(~allowed_MN, torch.finfo(scores_MN.dtype).min)
    return F.cross_entropy(masked, target_M, reduction="none")


def real_rows(batch: dict[str, Tensor]) -> Tensor:
    """(N,) which rows are compared."""
    return batch["units"] > 0


def one_each(batch: dict[str, Tensor]) -> dict[str, Any]:
    """The batch with one unit for each real row."""
    return batch | {"units": (batch["rows"] >= 0).long()}
