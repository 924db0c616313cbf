r"""LiGO: the large model is a linear map of the small one, and the map is learned.   Wang et al. 2023, arXiv:2303.00980, section 3.

    W'_l = O_out ( sum_k d_{l,k} W_k ) I_in^T        d: (L', L) for every kind of matrix,  O, I: (n', n) for every axis

O and I widen, d deepens. They are trained by the loss of the large model, for some hundred steps in which the small weights stay
as they are; then the map is applied once. It starts where ``widen`` and ``stack`` end: O copies, I shares among the copies, d repeats the
stack, so 0 steps are those two.

DEPARTS: the paper ties the matrix that reads an axis to the one that writes it; here both are free, since copies and shares are not
each other's transpose. Factors are per axis and per kind of matrix, read from the declared axes, where the paper lists them by name.

State: the optimizer starts afresh, because a dense map mixes the histories of many weights.   Cost: `steps` forward and backward passes
of the large model, which the run's FLOPs and seconds include; their rows are those the stage reads first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor
from torch.func import functional_call

from ..core.errors import UserError
from ..core.parts import NonNegative, Positive, part
from ._carry import Take
from ._depth import BLOCK, depth_of, with_depth
from ._width import before_head, copies_between, grown_tree, takes_factor

if TYPE_CHECKING:
    from ..core.axes import Axes
    from ..core.seams import Snapshot, Target


@part
class LiGO:
    """width, heads, hidden, depth: how many times as many (heads and hidden follow the width). steps, lr: of learning the map, with Adam."""

    preserves = False

    def __init__(
        self,
        *,
        width: Positive[int] = 1,
        heads: Positive[int] | None = None,
        hidden: Annotated[float, Ge(1)] | None = None,
        depth: Positive[int] = 2,
        steps: NonNegative[int] = 100,
        lr: Positive[float] = 1e-3,
    ):
        self.width, self.heads, self.hidden, self.depth = width, heads or width, float(hidden or width), depth
        self.steps, self.lr = steps, lr

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        if self.width == self.heads == self.depth == 1 and self.hidden == 1:
            raise ValueError("nothing grows: width, heads, hidden and depth are all 1")
        grown = grown_tree(tree, width=self.width, heads=self.heads, hidden=self.hidden)
        return with_depth(grown, depth_of(tree) * self.depth) if self.depth > 1 else grown

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        mapping = _Mapping(snapshot, target)
        if self.steps:
            mapping.learn(target, self.steps, self.lr)
        take = Take(snapshot, target)
        for name, weight in mapping.weights().items():
            take.set(name, weight.detach())
        take.rest()
        result = take.result()
        if snapshot.state:
            result.notes.append("optimizer state starts afresh: a learned map mixes the histories of many weights")
        return result


class _Mapping:
    """The learned matrices by name: ``write/axis`` O, ``read/axis`` I, ``depth/kind`` d."""

    def __init__(self, snapshot: Snapshot, target: Target):
        self.snapshot = snapshot
        made = copies_between(snapshot, target, split=0.1)
        self.last = before_head(snapshot)
        self.factors: dict[str, Tensor] = {}
        for axis, index in made.index.items():
            write = torch.zeros(len(index), int(index.max()) + 1, dtype=torch.float64)
            write[torch.arange(len(index)), index] = 1.0
            self.factors |= {f"write/{axis}": write, f"read/{axis}": write * made.share[axis][:, None]}
        old, new = depth_of(snapshot.tree), depth_of(target.tree)
        self.depths = (old, new)
        kinds = sorted({match[3] for name in snapshot.axes if (match := BLOCK.match(name))})
        self.factors |= {f"depth/{kind}": torch.eye(old, dtype=torch.float64).repeat(new // old, 1) for kind in kinds}
        dtype = next(weight.dtype for weight in snapshot.weights.values() if weight.is_floating_point())
        self.factors = {name: factor.to(dtype) for name, factor in self.factors.items()}
        self.ratio = snapshot.output_scale / target.output_scale

    def weights(self) -> dict[str, Tensor]:
        """Every parameter of the large model under the present map."""
        found: dict[str, Tensor] = {}
        stacks: dict[str, dict[int, str]] = {}
        for name in self.snapshot.axes:
            if (match := BLOCK.match(name)) is not None:
                stacks.setdefault(match[3], {})[int(match[2])] = name
            else:
                found[name] = self._widened(name, self.snapshot.axes[name], self.snapshot.weights[name])
        for kind, names in stacks.items():
            if len(names) < self.depths[0]:  # what the blocks share, such as relative positions, is held by one of them
                found |= {name: self._widened(name, self.snapshot.axes[name], self.snapshot.weights[name]) for name in names.values()}
                continue
            old = torch.stack([self.snapshot.weights[names[layer]] for layer in range(self.depths[0])])
            for layer, weight in enumerate(torch.einsum("lk,k...->l...", self.factors[f"depth/{kind}"], old)):
                found[f"encoder.blocks.{layer}.{kind}"] = self._widened(names[layer % self.depths[0]], self.snapshot.axes[names[0]], weight)
        return found

    def _widened(self, name: str, axes: Axes, weight: Tensor) -> Tensor:
        reads = axes.role in ("matrix", "head") and len(axes.names) > 1
        for dim, axis in enumerate(axes.names):
            side = "read" if reads and dim == len(axes.names) - 1 else "write"
            side = "read" if self.last and name.startswith(self.last) else side
            if f"{side}/{axis}" in self.factors:
                weight = torch.tensordot(self.factors[f"{side}/{axis}"], weight, dims=([1], [dim])).movedim(0, dim)
        if self.ratio == 1.0:
            return weight
        scaled = (self.last and name.startswith(self.last)) or (
            reads and f"read/{axes.names[-1]}" in self.factors and takes_factor(self.snapshot.tree, name, axes)
        )
        return weight * self.ratio if scaled else weight

    def learn(self, target: Target, steps: int, lr: float) -> None:
        """Train the map on the loss of the large model. UserError without data."""
        if target.batches is None or target.model is None:
            raise UserError("ligo learns its map from data, and there is none here")
        model = target.model()
        for stack in model.modules():
            if hasattr(
                stack, "checkpointing"
            ):  # what is computed again in backward would be so with the model's own weights, the map's being gone
                stack.checkpointing = "none"  # type: ignore[assignment]
        with torch.enable_grad():
            factors = {name: factor.requires_grad_() for name, factor in self.factors.items()}
            optimizer = torch.optim.Adam(factors.values(), lr=lr)
            batches = target.batches()
            for _, batch in zip(range(steps), batches, strict=False):
                losses = functional_call(model, self.weights(), (batch,))
                optimizer.zero_grad()
                sum(loss.sum() / batch.get(f"units/{name}", batch["units"]).sum() for name, loss in losses.items()).backward()
                optimizer.step()
