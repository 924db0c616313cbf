r"""The gradient noise scale, an estimate of the critical batch.   McCandlish et al. 2018, arXiv:1812.06162, equation 2.9, appendix A.1.

    S = tr(Sigma)        variance of one unit's gradient          G        the true gradient
    E|G_b|^2 = |G|^2 + S / b     for the mean gradient G_b over b units

The parts of a step (micro-batches, on every rank) give G_i over n_i units each, the step gives G_N over N = sum n_i, so that

    S    = (sum_i n_i |G_i|^2 - N |G_N|^2) / (K - 1)        |G|^2 = |G_N|^2 - S / N        K: number of parts

which for equal parts is the paper's pair of estimators. Both are averaged over steps before their ratio is taken:

    noise_scale = S / |G|^2   in scored units        noise_rows = the same in rows        gain = 1 / (1 + noise_scale / N)

A batch well below noise_rows still buys speed almost in proportion; well above, little. gain: progress of a step over that of a
step with an endless batch (equation 2.8 of the paper).

Needs two parts or more: ranks, or micro-batches below the batch (with ``micro_rows: auto`` they are made so). A step that has fewer all
the same, such as the first ones of a batch that grows or the last one of the data, says nothing and leaves the averages as they are.
Norms are of whole gradients, so it is refused under fsdp, whose ranks hold slices; so are losses that compare the rows of a step, whose
parts are no samples of one gradient.

State: two numbers.   Cost: a pass over the gradients a micro-batch, no matmul FLOPs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..core.errors import RunError
from ..core.parts import part
from ..core.sums import wide
from .clip import total_norm

if TYPE_CHECKING:
    from ..core.seams import Layout

Micro = dict[str, Tensor]


@part
class NoiseScale:
    """decay: share of the averages of S and |G|^2 that one step keeps.

    parts (of the class): the fewest micro-batches, over all ranks, that a step must have to be heard.
    """

    parts = 2

    def __init__(self, layout: Layout | None = None, *, decay: Annotated[float, Interval(ge=0, lt=1)] = 0.95):
        self.layout, self.decay = layout, decay
        self.noise = self.signal = self.weight = 0.0
        self._handles: list[Any] = []
        self._squares: list[Tensor] = []
        self._units: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._first: Tensor | None = None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        run = context.get("run")
        if run is None:
            return
        for index, stage in enumerate(run.stages):
            objective = run.objective_at(index)[1]
            if any(hook.name == "noise_scale" for hook in stage.hooks) and getattr(objective.target, "couples_batch", False):
                yield f"objective {objective.name!r} couples the rows of a step: its micro-batches are no samples of one gradient"
        layout = getattr(run.layout, "name", run.layout)
        if layout == "fsdp":
            yield "under fsdp a rank holds slices of the gradient, whose parts have no norm to compare; use replicate"
        if layout == "single" or (layout == "auto" and int(os.environ.get("WORLD_SIZE", "1")) == 1):
            for index, stage in enumerate(run.stages):
                rows = stage.batch.value / ((stage.data or run.data).sequence if stage.batch.unit == "tokens" else 1)
                if any(hook.name == "noise_scale" for hook in stage.hooks) and (
                    rows < 2 or (isinstance(run.micro_rows, int) and run.micro_rows >= rows)
                ):
                    yield f"one micro-batch on one rank gives no two batch sizes to compare: stage {index} wants micro_rows below {rows:g}, or more ranks"

    def select(self, state: Any, window: list[Micro]) -> list[Micro]:
        """Listen to the window's backward passes; the window is left as it is."""
        self._leave()
        self._forget()
        self._handles = [state.model.register_forward_pre_hook(self._begin)]
        for weight in state.model.parameters():
            if isinstance(weight, DTensor):
                raise RunError("noise_scale: sharded gradients have no norm of their own; use replicate")
            if weight.requires_grad:
                self._handles.append(weight.register_hook(self._hear))
        return window

    def _begin(self, module: Any, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():  # not a scoring pass
            batch = inputs[0]
            if self._units and batch["rows"] is self._first:  # the optimizer asks for the window's gradient again
                self._forget()
            self._first = self._first if self._units else batch["rows"]
            self._squares.append(wide(torch.zeros((), device=batch["rows"].device)))
            self._units.append(wide(batch["units"].sum()))
            self._rows.append(wide(distinct(batch["rows"])))

    @torch.no_grad()
    def _hear(self, gradient: Tensor) -> None:
        self._squares[-1] += wide(torch.linalg.vector_norm(gradient)).square()

    def _forget(self) -> None:
        self._squares.clear()
        self._units.clear()
        self._rows.clear()

    def _leave(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def grads(self, state: Any) -> dict[str, float]:
        """Compare the parts' gradients with the whole one; logs the estimates, nothing where there are fewer than two parts."""
        self._leave()
        units, squares = torch.stack(self._units), torch.stack(self._squares)
        there = units > 0
        # Each part's gradient is a sum over its units divided by those of the step: n_i |G_i|^2 = N^2 / n_i of its square.
        local = torch.stack([units.sum(), (squares[there] / units[there]).sum(), wide(there.sum()), torch.stack(self._rows).sum()])
        total, scaled, parts, rows = (local if self.layout is None else self.layout.total(local)).tolist()
        if parts < self.parts:
            return {}
        known = getattr(state, "extra", {}).get("gradient_norm")  # before any hook changed the gradients
        whole = float(total_norm(weight.grad for weight in state.model.parameters() if weight.grad is not None)) if known is None else known
        noise = (total**2 * scaled - total * whole**2) / (parts - 1)
        self._average(noise, whole**2 - noise / total)
        found = {"noise": self.noise / self.weight, "signal": self.signal / self.weight}
        if self.signal > 0:  # else the noise drowns the gradient still: no ratio yet
            scale = max(0.0, self.noise / self.signal)
            found |= {"noise_scale": scale, "noise_rows": scale * rows / total, "gain": 1 / (1 + scale / total)}
        return found

    def _average(self, noise: float, signal: float) -> None:
        self.noise = self.decay * self.noise + (1 - self.decay) * noise
        self.signal = self.decay * self.signal + (1 - self.decay) * signal
        self.weight = self.decay * self.weight + (1 - self.decay)

    def state_dict(self) -> dict[str, float]:
        """The two averages and what they weigh."""
        return {"noise": self.noise, "signal": self.signal, "weight": self.weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take over saved averages."""
        self.noise, self.signal, self.weight = (float(state[name]) for name in ("noise", "signal", "weight"))


def distinct(rows: Tensor) -> Tensor:
    """How many rows of the data a micro-batch holds, padding (below 0) left out: pieces of a row share its number."""
    ordered = rows.clamp(min=-1).sort().values
    return (torch.diff(ordered, prepend=ordered.new_full((1,), -1)) > 0).sum()
