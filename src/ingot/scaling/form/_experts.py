"""The number of experts as it counts: saturating at both ends."""

from __future__ import annotations

from typing import Any


def saturated(experts: Any, start: Any, most: Any) -> Any:
    """E_hat of Clark et al. 2022, Eq. 8: 1 / E_hat = 1 / (E - 1 + 1 / (1 / start - 1 / most)) + 1 / most. E_hat(1) = start."""
    return 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most)
