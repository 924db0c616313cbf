r"""Updates inside the backward pass: each weight moves as soon as its gradient is complete, and the gradient is freed at once.

Lv et al. 2023, arXiv:2306.09782 (LOMO), section 3.1, for every optimizer that updates weight by weight.

    gradients alive at once      ordinary: sum_w bytes(w)          fused: max_w bytes(w)

Under accumulation the gradients of the earlier micro-batches must wait for the last one, whose backward makes the updates: then the
sum is alive when that backward begins, and it is freed weight by weight. The updates are those of the ordinary step, to rounding.
A weight that the last micro-batch does not use keeps its gradient and is updated by the step after it, as ever.

Why it is right: a weight's gradient is complete when everything that used the weight has run backward, activation checkpointing's
second forward included, so nothing of this step reads the weight again. What needs all gradients first cannot be had: scaling by
the global norm, holding an update back, summing over ranks, a second gradient. The build refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core.sums import wide


class FusedBackward:
    """The updates of one step. phase: the meter's, which files them under the optimizer. bytes: the most of gradients alive at once."""

    def __init__(self, optimizer: Any, phase: Callable[[str], Any]) -> None:
        self.optimizer, self.phase = optimizer, phase
        self.bytes = self._alive = 0
        self._norms: list[Tensor] = []

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Around the last backward of a window: its gradients become updates."""
        places = [(group, weight) for group in self.optimizer.param_groups for weight in group["params"] if weight.requires_grad]
        self.bytes = self._alive = sum(weight.grad.nbytes for _, weight in places if weight.grad is not None)
        handles = [weight.register_post_accumulate_grad_hook(self._hook(group, fresh=weight.grad is None)) for group, weight in places]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def norm(self) -> float:
        """The norm of the gradients that were used up, taken as a layout takes that of all: one per weight, added in float64."""
        return float(wide(torch.stack(self._norms)).square().sum().sqrt()) if self._norms else 0.0

    def _hook(self, group: dict[str, Any], fresh: bool) -> Callable[[Tensor], None]:
        @torch.no_grad()
        def update(weight: Tensor) -> None:
            assert weight.grad is not None
            size = weight.grad.nbytes
            self._alive += size if fresh else 0
            self.bytes = max(self.bytes, self._alive)
            with self.phase("hooks"):
                self._norms.append(torch.linalg.vector_norm(weight.grad))
            with self.phase("optimizer"):
                self.optimizer.update_one(group, weight)
            weight.grad = None
            self._alive -= size

        return update
