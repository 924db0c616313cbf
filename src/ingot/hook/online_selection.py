r"""Training on the rows of largest loss among those read.   Jiang et al. 2019, arXiv:1910.00762; Kawaguchi & Lu 2020, arXiv:1907.04371.

    l_i = loss per scored unit of row i, forward only, under the current weights
    step on the round(keep R) rows of largest l_i among the R = batch / keep rows of the window over all ranks

The stage's batch is what is trained on; 1 / keep times as many rows are read, and the position in the data moves by what is read.
Tokens count what is trained; FLOPs count the scoring pass too (phase ``hooks``). The loss in the ledger is that of chosen rows,
hence biased; ``online_selection.read_loss`` is that of all.

DEPARTS: Selective-Backprop draws each row with probability CDF(l_i)^beta, so its batches vary in size; here, as in ordered SGD,
the largest are taken, so every step has the batch that the recipe says.

State: none.   Cost: a forward pass over every row read: 1 / (3 keep) of the cost of training on the kept ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.parts import Positive, part
from ._selection import refusals, row_losses, select

if TYPE_CHECKING:
    from ..core.seams import Layout

Micro = dict[str, Tensor]


@part
class OnlineSelection:
    """keep: share of the rows read that are trained on, at most 1."""

    def __init__(self, layout: Layout | None = None, *, keep: Positive[float] = 0.5):
        self.layout, self.keep = layout, keep
        self.found: dict[str, float] = {}

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        if knobs["keep"] > 1:
            yield f"keep is a share of the rows read, {knobs['keep']:g} is more than all of them"
        yield from refusals(context)

    @property
    def reads(self) -> float:
        """Rows read for each row trained on."""
        return 1 / min(1.0, self.keep)

    def select(self, state: Any, window: list[Micro]) -> list[Micro]:
        """The rows of largest loss, in micro-batches of the same size."""
        losses = row_losses(state.model, window)
        chosen, self.found = select(window, losses, min(1.0, self.keep), self.layout)
        self.found["read_loss"] = self._mean(window, losses)
        return chosen

    def _mean(self, window: list[Micro], losses: Tensor) -> float:
        units = torch.cat([micro["units"] for micro in window]).cpu().double()
        sums = torch.stack([(losses.double() * units).sum(), units.sum()])
        total = sums if self.layout is None else self.layout.total(sums)
        return float(total[0] / total[1].clamp(min=1))

    def stepped(self, state: Any, log: dict[str, Any]) -> None:
        """What was chosen, for the ledger."""
        log["hooks"] = log.get("hooks", {}) | {f"online_selection.{name}": value for name, value in self.found.items()}
