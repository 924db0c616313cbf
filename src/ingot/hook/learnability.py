r"""Training on the rows that are still to be learned: loss above that of a reference.   Mindermann et al. 2022, arXiv:2206.07137, eq. 3;
Evans et al. 2024 (JEST), arXiv:2406.17711, section 3.1.

    s_i = l_i(current weights) - l_i(reference)        step on the round(keep R) rows of largest s_i among the R = batch / keep read

l: loss per scored unit, forward only. A row that neither can predict (noise) scores low, and so does one already learned.
Reference: a finished run on better or held-out data, usually smaller, with the same tokenizer and kind of objective. Without one,
the weights with which the hook began are it: what scores high is what the run has unlearned since, as a continued run does
(maximally interfered rows, Aljundi et al. 2019, arXiv:1908.04742). Batch, position and tokens count as in ``online_selection``.

DEPARTS: JEST samples a sub-batch in chunks because its contrastive loss couples rows; the losses here are sums over rows, for which
the best sub-batch is that of the largest scores. Objectives that couple rows are refused.

State: one tensor per weight where the run is its own reference, else none.   Cost: two forward passes over every row read, the
second at the reference's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..core.parts import Positive, part
from ._selection import refusals, row_losses, select
from ._weights import swapped

if TYPE_CHECKING:
    from ..core.seams import Layout

Micro = dict[str, Tensor]


@part
class Learnability:
    """keep: share of the rows read that are trained on. reference: folder of a run or of one of its checkpoints."""

    def __init__(
        self,
        layout: Layout | None = None,
        open_model: Callable[[str], nn.Module] | None = None,
        *,
        keep: Positive[float] = 0.5,
        reference: str | None = None,
    ):
        self.layout, self.open_model, self.keep, self.reference = layout, open_model, keep, reference
        self.copies = int(reference is None)
        self.model: nn.Module | None = None
        self.start: dict[str, Tensor] = {}
        self.found: dict[str, float] = {}

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        if knobs["keep"] > 1:
            yield f"keep is a share of the rows read, {knobs['keep']:g} is more than all of them"
        reference, folder = knobs["reference"], context.get("folder")
        if (
            reference is not None
            and folder is not None
            and not any((folder / Path(reference) / name).is_file() for name in ("recipe.yaml", "manifest.json"))
        ):
            yield f"no run at {reference!r} to take the reference from; train it first, or set reference to null"
        yield from refusals(context)

    @property
    def reads(self) -> float:
        """Rows read for each row trained on."""
        return 1 / min(1.0, self.keep)

    def select(self, state: Any, window: list[Micro]) -> list[Micro]:
        """The rows of largest learnability, in micro-batches of the same size."""
        if self.reference is not None and self.model is None:
            assert self.open_model is not None, "a reference needs open_model"
            self.model = self.open_model(self.reference)
        if self.reference is None and not self.start:
            self.start = {name: weight.detach().clone() for name, weight in state.model.named_parameters()}
        losses = row_losses(state.model, window)
        with nullcontext() if self.model is not None else swapped(state.model, self.start, "reference"):
            scores = losses - row_losses(self.model or state.model, window)
        chosen, self.found = select(window, scores, min(1.0, self.keep), self.layout)
        return chosen

    def stepped(self, state: Any, log: dict[str, Any]) -> None:
        """What was chosen, for the ledger."""
        log["hooks"] = log.get("hooks", {}) | {f"learnability.{name}": value for name, value in self.found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The weights with which the hook began, where they are the reference."""
        return {f"start.{name}": tensor for name, tensor in self.start.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved reference; the tensors are copied."""
        self.start = {key.removeprefix("start."): tensor.detach().clone() for key, tensor in state.items()}
