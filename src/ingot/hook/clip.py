r"""Gradient clipping by the norm of all gradients together.   Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, Algorithm 1.

    g <- g min(1, max_norm / (|g| + 1e-6)),   |g|: the norm of all gradients as one vector, over every shard

State: none.   Cost: two passes over the gradients, no matmul FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..core.parts import Positive, part


@part
class Clip:
    """max_norm: the norm above which gradients are scaled down to it. norm: its order."""

    def __init__(self, *, max_norm: Positive[float] = 1.0, norm: Positive[float] = 2.0):
        self.max_norm, self.norm = max_norm, norm

    def grads(self, state: Any) -> dict[str, float]:
        """Clip state.model's gradients in place; logs the norm that they had before."""
        weights = [weight for weight in state.model.parameters() if weight.grad is not None]
        known = getattr(state, "extra", {}).get("gradient_norm") if self.norm == 2.0 else None  # the loop has just computed it
        if known is not None and known <= self.max_norm:
            return {"grad_norm": known}
        norm = total_norm([weight.grad for weight in weights], self.norm) if known is None else torch.tensor(known)
        # sharded and plain gradients cannot be scaled in one call
        for sharded in (False, True):
            clip_grads_with_norm_([weight for weight in weights if isinstance(weight.grad, DTensor) == sharded], self.max_norm, norm)
        return {"grad_norm": float(norm)}


def total_norm(gradients: Iterable[Tensor], order: float = 2.0) -> Tensor:
    """The norm of all gradients as one vector, the same on every rank; sharded ones count whole. Zero when there are none."""
    meshes: dict[Any, list[Tensor]] = {}
    for gradient in gradients:
        meshes.setdefault(gradient.device_mesh if isinstance(gradient, DTensor) else None, []).append(gradient)
    norms = [get_total_norm(alike, order) for alike in meshes.values()]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return torch.linalg.vector_norm(torch.stack(whole), order) if len(whole) > 1 else whole[0] if whole else torch.zeros(())
