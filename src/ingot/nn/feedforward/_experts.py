"""Any feed-forward as E experts at once: its projections become stacks of matrices, multiplied group by group.

The feed-forward is built with a kind of linear layer that stacks, and called with rows sorted by expert; what it does between its
projections must be element by element.

E experts   I features in   O features out   M rows
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.axes import Role, label
from ...ops.grouped import group_of_rows, grouped_matmul


class Groups:
    """Where each expert's rows end, during one call."""

    ends_E: Tensor | None = None


class StackedLinear(nn.Module):
    """One matrix per expert. active_share: of its parameters that a position meets, on average; plans read it."""

    def __init__(
        self, groups: Groups, experts: int, inputs: int, outputs: int, bias: bool, axes: tuple[str, str], role: Role, active_share: float
    ):
        super().__init__()
        self.groups, self.active_share = groups, active_share
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(experts, outputs)) if bias else None
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "experts", *axes, role=role)
        if bias:
            label(self, "bias", "experts", axes[0], role="bias")

    def forward(self, x_MI: Tensor) -> Tensor:
        ends_E = self.groups.ends_E
        assert ends_E is not None, "rows are only sorted inside the mixture's forward"
        y_MO = grouped_matmul(x_MI, self.weight, ends_E)
        if self.bias is None:
            return y_MO
        group_M = group_of_rows(len(x_MI), ends_E).clamp(max=len(ends_E) - 1)
        return y_MO + self.bias.to(x_MI.dtype).index_select(0, group_M)

    def extra_repr(self) -> str:
        return f"experts, outputs, inputs={tuple(self.weight.shape)}, bias={self.bias is not None}"


class Stacked:
    """Stands for the Spec of nn.linear when an expert is built."""

    def __init__(self, experts: int, active_share: float):
        self.experts, self.active_share, self.groups = experts, active_share, Groups()

    def build(self, *, inputs: int, outputs: int, bias: bool, axes: tuple[str, str], role: Role = "matrix", **others: Any) -> StackedLinear:
        return StackedLinear(self.groups, self.experts, inputs, outputs, bias, axes, role, self.active_share)
