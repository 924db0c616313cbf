"""The type in which sums are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """As float64; as float32 on MPS, which has no wider type."""
    return values.float() if values.device.type == "mps" else values.double()
