r"""Normal initial values of one standard deviation.   Radford et al. 2019 (GPT-2), section 2.3.

W ~ N(0, std^2)        layers' outputs into the residual stream: std / sqrt(2 depth)        gains 1, biases 0
"""

from __future__ import annotations

from torch import nn

from ...core.axes import Axes
from ...core.parts import Positive, part
from ._draw import adds_to_residual, depth_of, fill


@part
class Normal:
    """std: of every matrix and embedding. residual: smaller outputs of layers, so that the residual stream does not grow with depth."""

    def __init__(self, *, std: Positive[float] = 0.02, residual: bool = True):
        self.std, self.residual = std, residual

    def apply(self, model: nn.Module, seed: int) -> None:
        """Fill every parameter from (seed, its name)."""
        outputs = self.std / (2 * max(1, depth_of(model))) ** 0.5 if self.residual else self.std
        fill(model, seed, lambda name, axes, shape: outputs if adds_to_residual(axes) else self.std)

    def lr_scale(self, name: str, axes: Axes, shape: tuple[int, ...]) -> float:
        """1 for every parameter."""
        return 1.0

    def output_scale(self, width: int) -> float:
        """1: logits are as the head gives them."""
        return 1.0
