r"""An exponential moving average of the weights, for evaluation.   Polyak & Juditsky 1992; its warm-up: torch and TensorFlow practice.

    a_0 = w_0        a_t = d_t^k a_{t-1} + (1 - d_t^k) w_t        d_t = min(decay, (1 + t) / (10 + t)) with warm-up, else decay

k = B_t / B is the batch of step t over the batch that decay was chosen for, so that the average looks back over as many rows when
the batch is scheduled or scaled: Busbridge et al. 2023, arXiv:2307.13813, Definition 1.2. B is the stage's own batch (before its
schedule) unless the knob ``batch`` says another. t counts the averaged updates after the first. Buffers are not averaged.

Refused beside restarts of factors (hook ``relora``): a product of averages from before and after one is no layer that ever was.

Shapes: a as w, sharded as w.   State: one tensor per weight, saved with the run.   Cost: one pass over the weights, no matmul FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.parts import Fraction, part
from ..core.quantities import Batch
from ._weights import fit, local, swapped


@part
class EMA:
    """decay: share of the average that one step keeps. warmup: forget the early weights faster. batch: the rows or tokens that decay was
    chosen for."""

    copies = 1

    def __init__(
        self, batch_rows: int | None = None, sequence: int = 1, *, decay: Fraction = 0.999, warmup: bool = True, batch: Batch | None = None
    ):
        for message in self.check({"batch": batch}, {}):
            raise UserError(message)
        self.decay, self.warmup = decay, warmup
        self.rows = float(batch_rows or 0) if batch is None else batch.value / (sequence if batch.unit == "tokens" else 1)
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self.model: nn.Module | None = None

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        batch, run = knobs["batch"], context.get("run")
        if batch is not None and (batch.unit not in ("rows", "tokens") or not batch.value):
            yield f"batch is the rows or tokens that decay was chosen for, above 0; got {batch}"
        for index, stage in enumerate(run.stages if run is not None else ()):
            mine = any(hook.knobs is knobs for hook in stage.hooks)
            restarting = next((hook.name for hook in stage.hooks if getattr(hook.target, "restarts", False)), None)
            if mine and restarting:
                yield f"factors averaged across the restarts of {restarting!r} are no average of their layer: leave one out of stage {index}"

    @torch.no_grad()
    def stepped(self, state: Any, log: Mapping[str, Any] | None = None) -> None:
        """Take the updated weights of state.model into the average; not where the update was held back."""
        self.model = state.model
        if (log or {}).get("skipped"):
            return
        weights = dict(state.model.named_parameters())
        if not self.average:
            self.average = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        fit(self.average, weights, "average")
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        rows = (log or {}).get("batch_rows", 0)
        scaled = decay ** (rows / self.rows) if rows and self.rows else decay
        torch._foreach_lerp_([local(self.average[name]) for name in weights], [local(weight) for weight in weights.values()], 1 - scaled)

    @contextmanager
    def averaged(self, model: nn.Module | None = None) -> Iterator[None]:
        """Within, the model (by default the one last stepped) holds the average; after, its own weights again, bit for bit."""
        model = model or self.model
        if model is None or not self.average:
            yield
            return
        with swapped(model, self.average, "average"):
            yield

    def state_dict(self) -> dict[str, Any]:
        """How many updates are in the average, and its tensors as ``average.<parameter>``: flat, as checkpoints hold them."""
        return {"updates": self.updates} | {f"average.{name}": tensor for name, tensor in self.average.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved average; the tensors are copied."""
        self.updates = int(state["updates"])
        self.average = {
            key.removeprefix("average."): tensor.detach().clone() for key, tensor in state.items() if key.startswith("average.")
        }
