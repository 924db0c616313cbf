r"""An exponential moving average of the weights, for evaluation.   Polyak & Juditsky 1992; its warm-up: torch and TensorFlow practice.

    a_0 = w_0        a_t = d_t a_{t-1} + (1 - d_t) w_t,   d_t = min(decay, (1 + t) / (10 + t)) with warm-up, else decay

t counts the averaged updates after the first. Buffers are not averaged.

Shapes: a as w, sharded as w.   State: one tensor per weight, saved with the run.   Cost: one pass over the weights, no matmul FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from ..core.errors import RunError
from ..core.parts import Fraction, part


@part
class EMA:
    """decay: share of the average that one step keeps. warmup: forget the early weights faster."""

    def __init__(self, *, decay: Fraction = 0.999, warmup: bool = True):
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self.model: nn.Module | None = None

    @torch.no_grad()
    def stepped(self, state: Any, log: Any = None) -> None:
        """Take the updated weights of state.model into the average."""
        self.model = state.model
        weights = dict(state.model.named_parameters())
        if not self.average:
            self.average = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        self._fit(weights)
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        torch._foreach_lerp_([_local(self.average[name]) for name in weights], [_local(weight) for weight in weights.values()], 1 - decay)

    @contextmanager
    def averaged(self, model: nn.Module | None = None) -> Iterator[None]:
        """Within, the model (by default the one last stepped) holds the average; after, its own weights again, bit for bit."""
        model = model or self.model
        if model is None or not self.average:
            yield
            return
        weights = dict(model.named_parameters())
        self._fit(weights)
        own = {name: _local(weight).detach().clone() for name, weight in weights.items()}
        try:
            with torch.no_grad():
                for name, weight in weights.items():
                    _local(weight).copy_(_local(self.average[name]))
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    _local(weight).copy_(own[name])

    def _fit(self, weights: Mapping[str, Tensor]) -> None:
        """Check that the average is of these weights, and cut a loaded one as they are cut. Raises RunError where it is of others."""
        for name, weight in weights.items():
            average = self.average.get(name)
            if average is None or average.shape != weight.shape:
                raise RunError(f"the average holds no weight {name!r} of shape {tuple(weight.shape)}: the model has changed since it began")
            if isinstance(weight, DTensor) and not isinstance(average, DTensor):
                copies = DTensor.from_local(average, weight.device_mesh, [Replicate()] * weight.device_mesh.ndim, run_check=False)
                self.average[name] = copies.redistribute(placements=weight.placements)

    def state_dict(self) -> dict[str, Any]:
        """How many updates are in the average, and its tensors as ``average.<parameter>``: flat, as checkpoints hold them."""
        return {"updates": self.updates} | {f"average.{name}": tensor for name, tensor in self.average.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved average; the tensors are copied."""
        self.updates = int(state["updates"])
        self.average = {key.removeprefix("average."): tensor.detach().clone() for key, tensor in state.items() if key.startswith("average.")}


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
