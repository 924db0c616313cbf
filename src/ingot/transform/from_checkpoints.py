r"""Branch-train-mix: models that were trained apart become the experts of one.   Sukhbaatar et al. 2024, arXiv:2403.07816, section 3.2.

    E_i = FFN of checkpoint i        every other weight: the mean over all checkpoints and the model at hand        router: new

The branches should come from one seed model, so that their residual streams agree. ``own`` experts are the feed-forward of the model at
hand (the paper keeps the seed model as one expert). It does not preserve any one function: the router has to learn.

State: averaged weights have no gradient history in common, so the optimizer starts afresh.   Cost: reading the checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import UserError
from ..core.parts import NonNegative, Positive, Slot, part
from ._carry import Take
from ._experts import role_of, with_experts

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.seams import Snapshot, Target


@part
class FromCheckpoints:
    """paths: runs or checkpoints, an expert each. own: experts made of the model at hand. router, every: as in ``upcycle``."""

    preserves = False

    def __init__(self, *, paths: list[str], own: NonNegative[int] = 1, router: Slot["nn.router"] = "top_k", every: Positive[int] = 1):
        self.paths, self.own, self.router, self.every = paths, own, router, every

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        experts = self.own + len(self.paths)
        if experts < 2:
            raise ValueError(f"{experts} experts are no mixture: name more checkpoints, or raise own")
        return with_experts(tree, experts, self.router.data(), every=self.every)

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        branches = [self._branch(path, snapshot, target) for path in self.paths]
        experts = [snapshot.weights] * self.own + branches
        all_models = [snapshot.weights, *branches]
        take = Take(snapshot, target)
        for name in target.weights:
            role, source = role_of(name)
            if role == "experts":
                take.set(name, torch.stack([weights[source] for weights in experts]))
            elif role == "router" or source not in snapshot.weights:
                take.fresh(name)
            else:
                take.set(
                    name,
                    torch.stack([weights[source].double() for weights in all_models]).mean(dim=0)
                    if snapshot.weights[source].is_floating_point()
                    else snapshot.weights[source].clone(),
                )
        result = take.result()
        if snapshot.state:
            result.notes.append(f"optimizer state starts afresh: the weights are the mean of {len(all_models)} models")
        return result

    @staticmethod
    def _branch(path: str, snapshot: Snapshot, target: Target) -> dict[str, Tensor]:
        assert target.read is not None
        weights, _ = target.read(path)
        wrong = [name for name, weight in snapshot.weights.items() if name not in weights or weights[name].shape != weight.shape]
        if wrong:
            raise UserError(f"{path} is not of the same make as the model at hand: {wrong[0]} is missing or has another shape")
        return weights
