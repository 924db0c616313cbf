r"""Merge-and-restart low-rank projection (ReLoRA).   Lialin et al. 2023, arXiv:2307.05695, section 3.

    y = (W + s B A) x + b        s = alpha / r;   W: frozen, A: (r, inputs) is ``right``, B: (outputs, r) is ``left``, B = 0 at first

At a restart W takes s B A in, A is drawn anew (uniform, variance 1 / (3 inputs)) and B is 0 again: outputs do not change, and the
next factors add another subspace. The hook ``relora`` restarts every N steps and forgets the factors' optimizer state; the schedule
``jagged`` warms the learning rate up again after each. W is a parameter that is not trained: saved and sharded with the others,
without gradient or optimizer state.

W starts as a dense matrix would. The paper's warm start (some thousand steps of dense training) is a run of its own.

Width transfer: A has the rate of a hidden matrix, B that of one with fixed inputs (the rank).
State: optimizer state of r (inputs + outputs) weights.   Cost: 2 (inputs outputs + r (inputs + outputs)) operations per position
forward; the backward pass saves W's gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn import functional as F

from ...core.axes import Role
from ...core.parts import Positive, part
from ._projection import Projection, normal, too_narrow


@part
class ReLoRA(Projection):
    """rank: r. alpha: of the factor s."""

    weight: Tensor
    left: Tensor
    right: Tensor
    restarts = True

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        axes: tuple[str, str],
        role: Role = "matrix",
        *,
        rank: Positive[int],
        alpha: Positive[float] = 32.0,
    ):
        super().__init__(inputs, outputs, bias, axes, role)
        self.rank = min(rank, inputs, outputs)
        self.scale = alpha / self.rank
        self.hold("weight", outputs, inputs, axes=axes, trained=False)
        self.hold("left", outputs, self.rank, axes=(axes[0], "rank"))
        self.hold("right", self.rank, inputs, axes=("rank", axes[1]))
        self.begin()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from too_narrow(context, knobs["rank"])
        stages = getattr(context.get("run"), "stages", [])
        if stages and not any(getattr(hook.target, "restarts", False) for stage in stages for hook in stage.hooks):
            yield "its factors are never merged: put the hook 'relora' into the stages"

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        weight = normal(generator, std, self.outputs, self.inputs)
        return {"weight": weight, "right": self._fresh(generator), "left": torch.zeros(self.outputs, self.rank, device="cpu")}

    def _fresh(self, generator: torch.Generator) -> Tensor:
        bound = self.inputs**-0.5
        return torch.empty(self.rank, self.inputs, device="cpu").uniform_(-bound, bound, generator=generator)

    def effective(self) -> Tensor:
        return self.weight + self.scale * (self.left @ self.right)

    @torch.no_grad()
    def restart(self, generator: torch.Generator) -> list[nn.Parameter]:
        """Take the factors into W and begin them anew; returns the factors. Collective where they are sharded."""
        right = self.right.full_tensor() if isinstance(self.right, DTensor) else self.right
        _local(self.weight).addmm_(_local(self.left), right, alpha=self.scale)
        _put(self.right, self._fresh(generator))
        _local(self.left).zero_()
        return [self.left, self.right]  # type: ignore[list-item]

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(self.scale * F.linear(x, self.right.to(x.dtype)), self.left.to(x.dtype))
        return F.linear(x, self.weight.to(x.dtype), self.bias_as(x.dtype)) + low

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _put(weight: Tensor, values: Tensor) -> None:
    """Copy values that every rank holds whole; a sharded weight takes its piece of them."""
    values = values.to(weight.device)
    if isinstance(weight, DTensor):
        copies = DTensor.from_local(values, weight.device_mesh, [Replicate()] * weight.device_mesh.ndim, run_check=False)
        values = copies.redistribute(placements=weight.placements).to_local()
    _local(weight).copy_(values)
