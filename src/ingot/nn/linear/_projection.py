"""What the linears that hold their matrix in another form than dense have in common.

W (outputs, inputs) is the matrix that such a layer multiplies by, whatever it keeps. Its axes and shape are declared as ``whole``;
``effective()`` gives it; ``draw_whole`` draws what is kept so that W has the standard deviation that a dense matrix would get.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from ...core.axes import Role, Whole, label
from ...core.errors import UserError

STD = 0.02  # before an initializer has been applied


class Projection(nn.Module):
    """x: (..., inputs) -> (..., outputs), for hidden matrices only. Raises UserError where a head or an embedding is asked for.

    exact: whether outputs are W x + b for W = effective(), with nothing done to x.   rounds: whether gradients pass some operation
    straight through, so that they are not those of the outputs.
    """

    exact = True
    rounds = False

    def __init__(self, inputs: int, outputs: int, bias: bool, axes: tuple[str, str], role: Role):
        super().__init__()
        if role != "matrix":
            raise UserError(f"a linear of the kind {type(self).__name__} holds hidden matrices; a {role} must stay dense")
        self.inputs, self.outputs = inputs, outputs
        self.whole = Whole(tuple(axes), (outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        if bias:
            label(self, "bias", axes[0], role="bias")

    def hold(self, name: str, *shape: int, axes: tuple[str, ...], trained: bool = True) -> None:
        """Make the parameter ``name``, a part of W."""
        setattr(self, name, nn.Parameter(torch.empty(shape), requires_grad=trained))
        label(self, name, *axes, role="matrix", whole=self.whole)

    def begin(self) -> None:
        """Values to start from until an initializer is applied; nothing where the layer is only planned."""
        first = next(self.parameters())
        if first.device.type == "meta":
            return
        with torch.no_grad():
            for name, values in self.draw_whole(torch.Generator().manual_seed(0), STD).items():
                getattr(self, name).copy_(values)

    def draw_whole(self, generator: torch.Generator, std: float) -> dict[str, Tensor]:
        """Values of parameters and buffers for which W has this standard deviation; drawn on the CPU."""
        raise NotImplementedError

    def effective(self) -> Tensor:
        """W as the forward pass uses it, in the dtype of what is kept."""
        raise NotImplementedError

    def plus_bias(self, y: Tensor) -> Tensor:
        """y + b."""
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def bias_as(self, dtype: torch.dtype) -> Tensor | None:
        """b in another dtype."""
        return None if self.bias is None else self.bias.to(dtype)

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, outputs={self.outputs}, bias={self.bias is not None}"


def normal(generator: torch.Generator, std: float, *shape: int) -> Tensor:
    """Normal values on the CPU, whatever the default device."""
    return torch.empty(shape, device="cpu").normal_(0.0, std, generator=generator)


def rms(values: Tensor) -> float:
    """Root of the mean square."""
    return float(values.double().square().mean().sqrt())


def support(generator: torch.Generator, count: int, total: int) -> Tensor:
    """``count`` of ``total`` places, drawn without replacement, in order; on the CPU."""
    return torch.randperm(total, generator=generator, device="cpu")[:count].sort().values


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute scales in: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


class _StraightThrough(torch.autograd.Function):
    """``value`` in forward; in backward its gradient is that of ``source``."""

    @staticmethod
    def forward(ctx: FunctionCtx, source: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


def straight_through(source: Tensor, value: Tensor) -> Tensor:
    """value, with the gradient of source (Bengio et al. 2013, arXiv:1308.3432). Both have the same shape and dtype."""
    found: Tensor = _StraightThrough.apply(source, value.detach())  # type: ignore[no-untyped-call]
    return found


def too_narrow(context: dict[str, Any], rank: int) -> list[str]:
    """The complaint about a rank that the width cannot have."""
    width = context.get("width")
    if width is None or rank <= width:
        return []
    return [f"a rank of {rank} is more than the model width {width}: dense would hold the same with less"]
