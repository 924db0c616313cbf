"""What a step cost over all ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..core.seams import Layout
    from ..ledger.meter import Spent


@dataclass
class Spending:
    """Sums a step's cost over ranks, and collects what any of them has to tell."""

    layout: Layout
    components: list[str] = field(default_factory=list)  # of any rank, in one order

    def total(self, spent: Spent, notices: list[dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
        """The seconds of a step, and all ranks' notices; the FLOPs in `spent` become those of all ranks. Collective."""
        if spent.metered or not self.components:
            found = self.layout.gather([*self.components, *spent.flops_by_component])
            self.components = sorted({name for names in found for name in names})
        own = [spent.flops, spent.recomputed, spent.step_seconds / self.layout.ranks, len(notices)]
        parts = [spent.flops_by_component.get(name, 0.0) for name in self.components]
        sums = self.layout.total(torch.tensor(own + parts, dtype=torch.float64)).tolist()
        spent.flops, spent.recomputed, seconds, told = sums[: len(own)]
        spent.flops_by_component = {name: flops for name, flops in zip(self.components, sums[len(own) :], strict=True) if flops}
        return seconds, [notice for part in self.layout.gather(notices) for notice in part] if told else []
