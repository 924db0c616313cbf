"""What evaluations report of an objective: its first loss before any weight, and the units that it is divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def units_of(batch: dict[str, Tensor], name: str) -> Tensor:
    """(B,) scored units of one loss: its own (units/x), those of all losses under its prefix (units/a for a/x), or the batch's."""
    while name:
        if f"units/{name}" in batch:
            return batch[f"units/{name}"]
        name = name.rpartition("/")[0]
    return batch["units"]


def measured(objective: Any, model: Any, batch: dict[str, Tensor]) -> tuple[str, Tensor, Tensor]:
    """Its name, (B,) sums and (B,) units of a prepared batch. An objective that weighs its first loss, or holds others, says them itself."""
    own = getattr(objective, "measured", None)
    if own is not None:
        found: tuple[str, Tensor, Tensor] = own(model, batch)
        return found
    name, loss = next(iter(objective(model, batch).items()))
    return name, loss, units_of(batch, name)
