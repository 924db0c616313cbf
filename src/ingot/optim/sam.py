r"""SAM: the gradient of the worst point nearby.   Foret et al. 2021, arXiv:2010.01412, Algorithm 1; adaptive: ASAM, Kwon et al. 2021,
arXiv:2102.11600, Algorithm 1.

    e = rho g / (|g| + 1e-12)                              g: the gradient at w, |g| over all weights together
    e = rho T^2 g / (|T g| + 1e-12),   T = |w| + eta       adaptive; T = 1 for biases
    the inner optimizer updates w by the gradient at w + e

The closure is called twice; rows, masks and dropout are the same both times. The loss and its log are those of the first call; hooks
on gradients (clipping) see the second gradient, which makes the update. Without a closure a step is the inner optimizer's.
The loss at w + e being another function, rho wants to be tuned: 0.05 to 0.2, for adaptive about ten times that.

Shapes: e, g as w.   State: the inner optimizer's; a copy of the weights is held during the second pass.
Cost: forward and backward twice, so twice the FLOPs of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..core.axes import Axes
from ..core.parts import NonNegative, Positive, Slot, part
from ..core.recipe import Recipe
from ..core.resolve import resolve
from ._groups import Group, Layout, StatefulOptimizer, call, local, local_gradient, normal_groups

INNER = {"name": "adamw", "lr": 3e-4}
_EPS = 1e-12


@part
class SAM(StatefulOptimizer):
    """rho: length of the step to the worst point. adaptive: by ASAM, with eta. inner: the optimizer that makes the update, with its lr."""

    whole_gradient = "takes the gradient twice in a step"
    around_closure = "moves the weights while the gradient is taken"
    closure_calls = 2

    def __init__(
        self,
        params: Iterable[Any],
        *,
        rho: Positive[float] = 0.05,
        adaptive: bool = False,
        eta: NonNegative[float] = 0.01,
        inner: Slot["optim"] = INNER,
    ):
        self.inner: Any = resolve(Recipe(inner), Slot["optim"]).build(params=normal_groups(params))
        super().__init__(self.inner.param_groups, {"rho": rho, "adaptive": adaptive, "eta": eta})
        self._link()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        if why := getattr(knobs["inner"].target, "around_closure", ""):
            yield f"SAM: the inner optimizer cannot be {knobs['inner'].name!r}, which {why} itself"

    def _link(self) -> None:
        """Let `inner` work on this optimizer's own group dicts and state."""
        self.inner.__setstate__({"state": self.state, "param_groups": self.param_groups})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"inner": self.inner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # torch's load_state_dict comes here with fresh group dicts and a fresh state
        super().__setstate__(state)
        self._link()

    @property
    def phase(self) -> str:  # type: ignore[override]
        return str(getattr(self.inner, "phase", ""))

    def state_layout(self, axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Layout]:
        layout: dict[str, Layout] = self.inner.state_layout(axes, shape)
        return layout

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype, axes: Axes | None = None) -> int:
        return int(self.inner.state_bytes(shape, dtype, axes))

    def state_dtypes(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.dtype]:
        found: dict[str, torch.dtype] = self.inner.state_dtypes(axes, shape, dtype)
        return found

    def new_state(self, weight: Tensor, group: Group) -> dict[str, Tensor]:
        fresh: dict[str, Tensor] = self.inner.new_state(weight, group)
        return fresh

    def init_state(self) -> None:
        self.inner.init_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the loss at w. Whatever becomes of the second call, the weights are back at w before the update."""
        loss = call(closure)
        if closure is not None:
            moved = self._ascend()
            try:
                call(closure)
            finally:
                for weight, before in moved:
                    local(weight).copy_(before)
                moved.clear()
        self.inner.step()
        return loss

    def _ascend(self) -> list[tuple[Tensor, Tensor]]:
        """Move to w + e; returns the weights moved, each with a copy of this rank's piece as it was."""
        found = [
            (group, axes, weight)
            for group in self.param_groups
            for axes, weight in zip(group["axes"], group["params"])
            if weight.grad is not None
        ]
        steps = [local_gradient(weight) for _, _, weight in found]
        scales = [
            local(weight).abs() + group["eta"] if group["adaptive"] and scaled(axes, weight) else None for group, axes, weight in found
        ]
        steps = [gradient if scale is None else gradient * scale for gradient, scale in zip(steps, scales)]
        norm = whole_norm([weight for _, _, weight in found], steps)
        moved = []
        for (group, _, weight), step, scale in zip(found, steps, scales):
            piece = local(weight)
            moved.append((weight, piece.clone()))
            piece.addcmul_(step if scale is None else step * scale, (group["rho"] / (norm + _EPS)).to(piece.dtype))
        return moved


def scaled(axes: Axes | None, weight: Tensor) -> bool:
    """Whether ASAM measures the weight by its size: by declared role; without one, by its dimensions."""
    return weight.dim() > 1 if axes is None else axes.role != "bias"


def whole_norm(weights: list[Tensor], pieces: list[Tensor]) -> Tensor:
    """The norm of the pieces as one vector, each cut as its weight is, the same on every rank."""
    total: Tensor | float = 0.0
    for weight, piece in zip(weights, pieces):
        square = torch.linalg.vector_norm(piece).double().square()
        if isinstance(weight, DTensor):
            whole = DTensor.from_local(
                piece, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
            )
            norm = torch.linalg.vector_norm(whole)
            square = (norm.full_tensor() if isinstance(norm, DTensor) else norm).double().square()
        total = total + square
    return torch.as_tensor(total, dtype=torch.float64).sqrt()
