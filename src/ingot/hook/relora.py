r"""Restarts for merge-and-restart layers.   Lialin et al. 2023, arXiv:2307.05695, section 3 and Algorithm 1.

Every N steps of a stage, each layer that offers ``restart`` (nn.linear ``relora``) takes its factors' product into its frozen matrix and
begins new factors, drawn from (seed, layer's name, how often it was restarted). Outputs do not change. The optimizer's state of the
factors, which belongs to another subspace now, is made anew; with `prune` below 1 that share of each of its moments, the smallest
values, is set to zero and the rest kept, as in the paper (0.9 to 0.99). What is not a moment of the weight's shape (projections, codes)
is made anew all the same.

Pair it with the schedule ``jagged`` at the same interval: the first steps after a restart have no settled second moment. Refused beside
the hook ``ema``, whose average would mix factors from before and after a restart.

DEPARTS: at `prune` 1 the optimizer's step count of the factors begins again too, so that Adam's bias correction is right; the reference
zeroes all but a thousandth of the moments and keeps the count.

State: how many restarts there were.   Cost: one product outputs x r x inputs per layer every N steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..core.parts import Fraction, NonNegative, Positive, part, walk_specs


@part
class ReLoRA:
    """every: steps between restarts. prune: share of the factors' optimizer state that is forgotten. seed: of the new factors."""

    restarts = True

    def __init__(self, *, every: Positive[int], prune: Fraction = 1.0, seed: NonNegative[int] = 0):
        self.every, self.prune, self.seed = every, prune, seed
        self.count = 0

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        run = context.get("run")
        if run is None:
            return
        if not any(getattr(spec.target, "restarts", False) for _, spec in walk_specs(run.model)):
            yield "no layer of the model has factors to restart: set a linear to relora, or leave the hook out"
        if knobs["prune"] < 1:
            for stage in run.stages:
                if "weight" in getattr(stage.optimizer.target, "state_powers", {}).values():
                    yield f"optimizer {stage.optimizer.name!r} keeps weights in its state, which cannot be pruned: set prune to 1"

    @torch.no_grad()
    def stepped(self, state: Any, log: Any = None) -> None:
        """Restart where another interval has passed."""
        if state.progress.steps % self.every:
            return
        groups = {id(weight): group for group in state.optimizer.param_groups for weight in group["params"]}
        restarted = False
        for path, module in state.model.named_modules():
            if hasattr(module, "restart"):
                restarted = True
                for weight in module.restart(self._generator(path)):
                    if id(weight) in groups:
                        self._forget(state.optimizer, weight, groups[id(weight)])
        self.count += restarted

    def _generator(self, path: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{path}/{self.count}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _forget(self, optimizer: Any, weight: Tensor, group: dict[str, Any]) -> None:
        held, powers = optimizer.state.get(weight, {}), getattr(optimizer, "state_powers", {})
        tensors = {key: value for key, value in held.items() if isinstance(value, Tensor) and value.dim()}
        moments = {
            key: value
            for key, value in tensors.items()
            if powers.get(key) in (1, 2) and value.shape == weight.shape and value.is_floating_point()
        }
        if self.prune < 1 and moments.keys() == tensors.keys():
            for values in moments.values():
                keep_largest(values, 1 - self.prune)
        elif held:
            del optimizer.state[weight]
            if hasattr(optimizer, "ensure_state"):
                optimizer.ensure_state(weight, group)

    def state_dict(self) -> dict[str, Any]:
        """How many restarts there were: the next factors are drawn from it."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved count."""
        self.count = int(state["count"])


def keep_largest(values: Tensor, share: float) -> None:
    """Zero all but this share of the values, the largest by size; of a sharded tensor, of each rank's piece."""
    piece = values.to_local() if isinstance(values, DTensor) else values
    kept = round(share * piece.numel())
    if kept <= 0:
        piece.zero_()
    elif kept < piece.numel():
        smallest = piece.abs().flatten().topk(piece.numel() - kept, largest=False).indices
        piece.view(-1)[smallest] = 0
