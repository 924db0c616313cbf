"""What every optimizer of this slot shares: how parameter groups are filled, and how state declares itself.

A group is torch's dict. The builder gives params, names, axes, lr_scale and decay; ``prepare_groups`` adds

    base_lr, lr                       the part's learning rate; the loop sets ``lr = base_lr * factor * lr_scale`` every step
    base_weight_decay, weight_decay   the part's weight decay, 0 in groups with ``decay: False``

State is declared per parameter by ``state_layout``: its keys, each with how it is laid out, which resharding and growth read:

    elementwise   the parameter's shape        per_axis    one value along an axis        scalar   one number
    projected     a low-rank image of it       quantized   codes and scales
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..core.axes import Axes
from ..core.errors import UserError

Beta = Annotated[float, Ge(0), Lt(1)]
Layout = Literal["elementwise", "per_axis", "scalar", "projected", "quantized"]
Group = dict[str, Any]


def prepare_groups(params: Iterable[Any], *, lr: float, weight_decay: float = 0.0) -> list[Group]:
    """Groups with every shared key filled; the dicts given are not changed.

    params: group dicts, or tensors, or (name, tensor) pairs. A group's own ``lr`` or ``weight_decay`` stands for the part's, as in
    torch. Raises UserError when there is no parameter, or one is given twice.
    """
    groups = normal_groups(params)
    for group in groups:
        group["base_lr"] = group.get("lr", lr)
        group["lr"] = group["base_lr"] * group["lr_scale"]
        group["base_weight_decay"] = group["weight_decay"] = group.get("weight_decay", weight_decay) if group["decay"] else 0.0
    return groups


def normal_groups(params: Iterable[Any]) -> list[Group]:
    """Fresh group dicts with params as a list, names, axes, lr_scale and decay. Raises as prepare_groups."""
    given = list(params)
    if given and not isinstance(given[0], dict):
        named = isinstance(given[0], tuple)
        given = [{"params": [item[1] if named else item for item in given]} | ({"names": [item[0] for item in given]} if named else {})]
    groups, start = [], 0
    for group in given:
        weights = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        names = [f"parameter {start + index}" for index in range(len(weights))]
        filled: Group = {"names": names, "axes": [None] * len(weights), "lr_scale": 1.0, "decay": True} | group | {"params": weights}
        if not len(filled["names"]) == len(filled["axes"]) == len(weights):
            raise UserError(f"a parameter group has {len(weights)} params, {len(filled['names'])} names and {len(filled['axes'])} axes")
        groups.append(filled)
        start += len(weights)
    _check_once(groups)
    return groups


def _check_once(groups: list[Group]) -> None:
    seen: dict[int, str] = {}
    for group in groups:
        for name, weight in zip(group["names"], group["params"]):
            if id(weight) in seen:
                raise UserError(f"the weight {name!r} is given to the optimizer twice (also as {seen[id(weight)]!r})")
            seen[id(weight)] = name
    if not seen:
        raise UserError("the optimizer is given no weights")


def local(tensor: Tensor) -> Tensor:
    """This rank's piece of a sharded tensor, as a view; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_gradient(weight: Tensor) -> Tensor:
    """This rank's piece of the gradient, laid out as the weight is."""
    gradient = weight.grad
    assert gradient is not None
    if isinstance(gradient, DTensor) and isinstance(weight, DTensor) and gradient.placements != weight.placements:
        gradient = gradient.redistribute(placements=weight.placements)
    return local(gradient)


class StatefulOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose state can be created ahead, described and priced. Subclasses give the four methods below.

    whole_gradient: why no weight can be updated before the gradients of all are there; empty where ``update_one`` may be called
    inside the backward pass.   around_closure: what the optimizer does to the model while the gradient is taken; such an optimizer
    cannot be the inner one of another, which takes the gradient itself.   closure_calls: how often a step takes the gradient.
    phase: a word for what the cost of the coming step depends on, where it is not the same in every step.   width_rule: how its learning
    rate changes with the width: "adam" as that of an update whose elements are as large as the rate; "spectral" not at all for matrices,
    whose updates have a spectral norm of their own; "other".   state_powers: by
    state key, how it follows the gradient: 1 (a momentum), 2 (a second moment), 0 (does not), "weight" (follows the weight itself),
    "rows" and "columns" (a second moment's means along its rows and along its columns), "each row" and "each matrix" (numbers for
    every row or matrix that do not follow its size); growth carries only keys that are here, or whole weights that are copied.
    """

    state_powers: ClassVar[dict[str, int | str]] = {"exp_avg": 1, "exp_avg_sq": 2, "momentum": 1, "momentum_buffer": 1, "step": 0}

    whole_gradient: str = ""
    around_closure: str = ""
    closure_calls: int = 1
    phase: str = ""
    width_rule: Literal["adam", "spectral", "other"] = "adam"

    def state_layout(self, axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Layout]:
        """The state keys of a parameter and how each is laid out."""
        raise NotImplementedError

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype, axes: Axes | None = None) -> int:
        """Exact bytes of the state of one parameter, over all ranks that share it."""
        raise NotImplementedError

    def new_state(self, weight: Tensor, group: Group) -> dict[str, Tensor]:
        """The state a parameter starts with; sharded as the parameter is."""
        raise NotImplementedError

    def update(self, group: Group, weights: list[Tensor]) -> None:
        """Update the weights of one group in place; all of them have gradients and state."""
        raise NotImplementedError

    def state_dtypes(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.dtype]:
        """By key, the dtypes of state that do not follow the parameter's."""
        return {}

    @torch.no_grad()
    def update_one(self, group: Group, weight: Tensor) -> None:
        """Update one weight of a group by its gradient, its state created where it has none: a step's work, weight by weight."""
        self.ensure_state(weight, group)
        self.update(group, [weight])

    def init_state(self) -> None:
        """Create the missing state of every parameter and change no weight; needed before a checkpoint is loaded into it."""
        for group in self.param_groups:
            for weight in group["params"]:
                self.ensure_state(weight, group)

    def ensure_state(self, weight: Tensor, group: Group) -> None:
        """Create one parameter's state where it has none."""
        if not self.state.get(weight) and (fresh := self.new_state(weight, group)):
            self.state[weight].update(fresh)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; what a saved group does not hold (a checkpoint may carry the tensors alone) stays as the recipe declared it.

        State with a dtype of its own (codes, scales, counts), which torch casts to the parameter's, is as it was saved.
        """
        saved = state_dict["param_groups"]
        groups = [{key: value for key, value in group.items() if key != "params"} | old for group, old in zip(self.param_groups, saved)]
        super().load_state_dict(state_dict | {"param_groups": groups + saved[len(groups) :]})
        numbers = (number for group in saved for number in group["params"])
        for group in self.param_groups:
            for weight, axes in zip(group["params"], group["axes"]):
                kept, held = state_dict["state"].get(next(numbers), {}), self.state.get(weight, {})
                for key, dtype in self.state_dtypes(axes, tuple(weight.shape), weight.dtype).items():
                    if key in kept:
                        held[key] = kept[key].to(device=held[key].device, dtype=dtype)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss. Parameters without a gradient are left alone."""
        loss = call(closure)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for weight in weights:
                self.ensure_state(weight, group)
            if weights:
                self.update(group, weights)
        return loss


def call(closure: Callable[[], Any] | None) -> Any:
    """The closure's loss, evaluated once with gradients enabled; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def count(shape: tuple[int, ...]) -> int:
    """Elements of a shape."""
    return torch.Size(shape).numel()
