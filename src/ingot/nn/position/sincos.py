r"""Fixed sines and cosines, added to the embedding.   Vaswani et al. 2017, arXiv:1706.03762, section 3.5; over a grid as in
Chen et al. 2021 (MoCo v3), arXiv:2104.02057, and MAE, arXiv:2111.06377.

    y_t = [sin(t f), cos(t f)]        f_i = theta^(-i / (D/2)), i = 0 .. D/2 - 1

Over a grid of a axes each axis has D/a features of its own coordinate; leading positions (a class token) get zeros.

positions_BT -> (B, T, D)   No parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.errors import UserError
from ...core.parts import Positive, part


@part
class SinCos(nn.Module):
    """theta: base of the frequencies."""

    additive = True
    of_width = True  # another width has other waves

    def __init__(self, width: int, grid: tuple[int, ...] = (), leading: int = 0, *, theta: Positive[float] = 10000.0):
        super().__init__()
        self.axes = max(1, len(grid))
        if width % (2 * self.axes):
            raise UserError(f"sincos positions over {self.axes} axes want a width that {2 * self.axes} divides, got {width}")
        self.width, self.grid, self.leading, self.theta = width, grid, leading, theta

    def forward(self, positions_BT: Tensor) -> Tensor:
        """float32 at least."""
        place = (positions_BT - self.leading).clamp(min=0)
        coordinates = []
        for size in reversed(self.grid[1:]):
            coordinates.append(place % size)
            place = place // size
        coordinates.append(place)
        half = self.width // (2 * self.axes)
        f = self.theta ** (-torch.arange(half, device=positions_BT.device, dtype=torch.float64) / half)
        angles = [coordinate[..., None].double() * f for coordinate in coordinates]
        y = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=-1)
        return torch.where((positions_BT < self.leading)[..., None], 0.0, y).float() if self.leading else y.float()

    def extra_repr(self) -> str:
        return f"grid={self.grid}, leading={self.leading}"
