"""Columns of shares, for the laws of mixtures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.errors import UserError
from ._base import Columns


def share_columns(table: Columns, columns: Sequence[str] | None, law: str) -> tuple[str, ...]:
    """The named columns, or those that start with ``mix_``. Raises UserError for fewer than two."""
    found = tuple(columns or sorted(name for name in table if name.startswith("mix_")))
    if len(found) < 2:
        raise UserError(f"{law} needs at least two columns of shares, named mix_DOMAIN")
    return found


def shares(table: Columns, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns, made to add up to one. Raises UserError where they are further from it than rounding explains."""
    found = np.stack([np.asarray(table[name], float) for name in names])
    total = found.sum(0)
    if not np.allclose(total, 1, atol=0.02):
        raise UserError(f"the shares {', '.join(names)} add up to {total.min():.3g} to {total.max():.3g}, not to 1")
    return dict(zip(names, found / total))
