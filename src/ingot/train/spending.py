"""What a step cost over all ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..core.seams import Layout
    from ..ledger.meter import Meter, Spent


@dataclass
class Spending:
    """Sums a step's cost over ranks, and collects what any of them has to tell."""

    layout: Layout
    components: list[str] = field(default_factory=list)  # of any rank, in one order

    def total(self, spent: Spent, notices: list[dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
        """The seconds of a step, and all ranks' notices; the FLOPs in `spent` become those of all ranks. Collective."""
        own = [spent.flops, spent.recomputed, spent.step_seconds / self.layout.ranks, len(notices)]
        *sums, strange = self._sums(own, spent)
        if strange:  # on any rank, for what is metered may differ between them
            found = self.layout.gather([*self.components, *spent.flops_by_component])
            self.components = sorted({name for names in found for name in names})
            *sums, strange = self._sums(own, spent)
        spent.flops, spent.recomputed, seconds, told = sums[: len(own)]
        spent.flops_by_component = {name: flops for name, flops in zip(self.components, sums[len(own) :], strict=True) if flops}
        return seconds, [notice for part in self.layout.gather(notices) for notice in part] if told else []

    def metered(self, meter: Meter) -> dict[str, Any]:
        """What a checkpoint keeps of a meter. What other ranks have metered is known here too from then on, as it is to a run that resumes.
        Collective."""
        for counted in self.layout.gather(meter.state_dict()["counted"]):
            meter.load_state_dict({"counted": counted})
        return meter.state_dict()

    def _sums(self, own: list[float], spent: Spent) -> list[float]:
        """Over ranks: of these, of the components' FLOPs, and of components that have no place among them yet."""
        parts = [spent.flops_by_component.get(name, 0.0) for name in self.components]
        strange = len(spent.flops_by_component.keys() - set(self.components))
        sums: list[float] = self.layout.total(torch.tensor([*own, *parts, strange], dtype=torch.float64)).tolist()
        return sums
