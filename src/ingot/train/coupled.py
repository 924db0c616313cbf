r"""Losses that compare rows with each other, over a whole step: one gradient however the rows are split.

Gao et al. 2021, arXiv:2101.06983 (gradient caching), section 3.2.

    r_i = represent(x_i)                 for all rows of the window and of all ranks, without gradient
    g_i = d L(r_1 .. r_N) / d r_i        once, with L the sum of every row's loss over its units
    dL/dw = sum_i g_i dr_i/dw            each micro-batch goes forward again and pulls its g_i through

Parameters that the comparison itself uses (a temperature) have their gradient from the second line; every rank computes the same, so
the first alone adds it. They must be the objective's own. One micro-batch of one rank needs none of this and goes the direct way.

The objective says ``couples_batch = True`` and offers

    represent(model, batch) -> {name: (B, d)}     a function of each row alone
    couple(representations, batch) -> {name: (N,) loss per row}     batch holds the keys with one value a row, such as rows and units

State: none.   Memory: N d per representation on each rank.   Cost: one forward more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.measured import units_of
from ..core.sums import wide

if TYPE_CHECKING:
    from ..core.seams import Layout

Micro = dict[str, Tensor]
HELD = "representation/"


def coupling(model: Any, window: Sequence[Micro], layout: Layout) -> Coupling | None:
    """What pulls a window's coupled gradient through its micro-batches; None where the losses need no such thing."""
    if not getattr(getattr(model, "objective", None), "couples_batch", False) or (len(window) == 1 and layout.ranks == 1):
        return None
    return Coupling(model, window, layout)


class Coupling:
    """The losses of a window's rows and their gradient with respect to representations; collective."""

    def __init__(self, model: Any, window: Sequence[Micro], layout: Layout):
        self.model, self.window, self.first = model, window, layout.rank == 0
        with torch.no_grad():
            found = [model(micro, ask="represent") for micro in window]
        own = {HELD + name: torch.cat([piece[name] for piece in found]) for name in found[0]}
        own |= {key: torch.cat([micro[key] for micro in window]) for key, value in window[0].items() if value.dim() == 1}
        ranks = layout.gather({key: value.cpu() for key, value in own.items()})
        device = window[0]["rows"].device
        batch = {key: torch.cat([part[key] for part in ranks]).to(device) for key in own}
        self.start = sum(len(part["rows"]) for part in ranks[: layout.rank])
        self.losses: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.parameters: dict[str, Tensor] = {}
        with torch.no_grad():
            model(batch, ask=self._compare)

    def _compare(self, model: Any, batch: Micro) -> None:
        """Fill losses and gradients; called inside of the model, where a sharded model's weights are whole."""
        batch = dict(batch)
        leaves = {key.removeprefix(HELD): batch.pop(key).detach().requires_grad_() for key in list(batch) if key.startswith(HELD)}
        parameters = {name: parameter for name, parameter in model.objective.named_parameters() if parameter.requires_grad}
        with torch.enable_grad():
            losses = model.objective.couple(leaves, batch)
            weights = batch.get("weights")
            total = torch.stack(
                [
                    ((loss if weights is None else loss * weights) / _units(batch, name).to(loss.dtype)).sum()
                    for name, loss in losses.items()
                ]
            ).sum()
            found = torch.autograd.grad(total, [*leaves.values(), *parameters.values()], allow_unused=True)
        gradients = dict(zip([*(HELD + name for name in leaves), *parameters], found, strict=True))
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        self.gradients = {name: gradients[HELD + name] for name in leaves if gradients[HELD + name] is not None}
        self.parameters = {name: gradients[name] for name in parameters if gradients[name] is not None}

    def again(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        """A micro-batch's losses by row, without gradient, and a scalar whose gradient is its share of the window's."""
        micro = self.window[index]
        begin = self.start + sum(len(other["rows"]) for other in self.window[:index])
        rows, last = slice(begin, begin + len(micro["rows"])), index == len(self.window) - 1

        def pull(model: Any, batch: Micro) -> Tensor:
            found = model.objective.represent(model, batch)
            terms = [(found[name] * gradient[rows].to(found[name].dtype)).sum() for name, gradient in self.gradients.items()]
            if last:  # zeros on the other ranks, so that every rank uses the same parameters
                own = dict(model.objective.named_parameters())
                terms += [
                    (own[name] * (gradient if self.first else torch.zeros_like(gradient))).sum()
                    for name, gradient in self.parameters.items()
                ]
            return torch.stack([term.to(terms[0].dtype) for term in terms]).sum()

        surrogate = self.model(micro, ask=pull)
        # Its value is of no meaning: only the gradient is wanted.
        return {name: loss[rows] for name, loss in self.losses.items()}, surrogate - surrogate.detach()


def _units(batch: Micro, name: str) -> Tensor:
    """Scored units of a loss over all rows, at least 1."""
    return wide(units_of(batch, name).sum()).clamp(min=1)
