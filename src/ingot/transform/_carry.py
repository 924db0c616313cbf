"""Moving weights and their optimizer state into another model, under one rule for all transforms.

A weight W' = f(W) whose gradient becomes G' = g(G) carries state by its power: a momentum becomes g(m), a second moment becomes v
with the factors of g squared, state that follows the weight becomes f(z). Of a second moment that is kept as its means along rows and
columns, v = r c^T / mean(r), v' is worked out and its means are taken: v' has that form again. Moments kept as codes are mapped in
full; the optimizer makes codes of them at their new shape. What cannot follow starts afresh, and is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import RunError
from ..core.seams import Snapshot

if TYPE_CHECKING:
    from ..core.seams import Target


@dataclass(frozen=True)
class Map:
    """How one axis grows: new position i is old position index[i]. value, gradient: factor on the weight and on its gradient, by new position."""

    index: Tensor
    value: Tensor | None = None
    gradient: Tensor | None = None

    def scaled(self, factor: float) -> Map:
        """The same map where the weight takes a further factor, and its gradient the inverse."""
        ones = torch.ones(len(self.index), dtype=torch.float64)
        return Map(
            self.index, (ones if self.value is None else self.value) * factor, (ones if self.gradient is None else self.gradient) / factor
        )


Maps = Sequence[Map | None]
MEANS: dict[int | str, int] = {"rows": -1, "columns": -2}  # which dimension a mean is taken over, by power
WORDS = (*MEANS, "each row", "each matrix")


class Take:
    """Collects the weights and the state of the result, one target name at a time."""

    def __init__(self, snapshot: Snapshot, target: Target):
        self.snapshot, self.target = snapshot, target
        self.weights: dict[str, Tensor] = {}
        self.state: dict[str, dict[str, Any]] = {}
        self.layouts: dict[str, dict[str, str]] = {}
        self.lost: dict[str, list[str]] = {}

    def copy(self, name: str, source: str, *, momentum: bool = True) -> None:
        """The source's weight and all of its state; without momentum, state of power 1 is zero."""
        self.weights[name] = self.snapshot.weights[source].clone()
        state = {key: value.clone() if isinstance(value, Tensor) else value for key, value in self.snapshot.state.get(source, {}).items()}
        if not momentum:
            if any(key not in self.snapshot.powers for key in state):
                return self._lose(name, "its state has keys of unknown power")
            state = {key: torch.zeros_like(value) if self.snapshot.powers[key] == 1 else value for key, value in state.items()}
        self._keep(name, source, state)
        return None

    def map(self, name: str, source: str, maps: Maps) -> None:
        """The source's weight with each axis through its Map (None: the axis stays), and the state that can follow."""
        old = self.snapshot.weights[source]
        if old.dim() != len(maps):
            raise RunError(f"{source} has {old.dim()} dimensions, its maps {len(maps)}")
        if all(item is None for item in maps):
            return self.copy(name, source)
        self.weights[name] = through(old, maps, "value")
        held = self._held(source)
        state: dict[str, Any] = {}
        for key, value in held.items():
            why = self._why_not(source, key, value)
            if why:
                return self._lose(name, why)
            power = self.snapshot.powers.get(key, 0)
            if not isinstance(value, Tensor) or value.dim() == 0:
                state[key] = value.clone() if isinstance(value, Tensor) else value
            elif power in MEANS:
                square = through(self._square(held), maps, "gradient", 2)
                state[key] = square.mean(dim=MEANS[power])
            elif power == "each row":  # (matrices, rows): of one matrix, or of as many as the first axis counts
                rows = maps[-2] if value.shape[0] == old.shape[0] and old.dim() > 2 else maps[0]
                state[key] = value if rows is None else value.index_select(-1, rows.index)
            elif power == "each matrix":
                state[key] = value.clone()
            elif power == "weight":
                state[key] = through(value, maps, "value")
            else:
                state[key] = through(value, maps, "gradient", int(power))
        self._keep(name, source, state)
        return None

    def repeat(self, name: str, source: str, times: int, gradient: float) -> None:
        """So many copies of the source on a new first axis, each with that share of its gradient."""
        old = self.snapshot.weights[source]
        self.weights[name] = old.expand(times, *old.shape).clone()
        state: dict[str, Any] = {}
        for key, value in self._held(source).items():
            why = self._why_not(source, key, value, "projected")  # whose every copy has the subspace of the one
            if why:
                return self._lose(name, why)
            power = self.snapshot.powers.get(key, 0)
            if power == "each matrix":
                state[key] = value.expand(times).clone()
            elif not isinstance(value, Tensor) or value.dim() == 0:
                state[key] = value.clone() if isinstance(value, Tensor) else value
            elif power == "each row":
                state[key] = value.expand(times, value.shape[-1]).clone()
            else:
                share = 1.0 if power == "weight" else gradient ** (2 if power in MEANS else int(power))
                state[key] = value.expand(times, *value.shape) * share
        return self._keep(name, source, state)

    def set(self, name: str, weight: Tensor, state: dict[str, Any] | None = None, *, like: str | None = None) -> None:
        """A weight worked out by the transform; like: the source whose layouts its state has."""
        self.weights[name] = weight
        if state:
            self.state[name] = state
            self.layouts[name] = dict(self.snapshot.layouts.get(like or name, {}))

    def fresh(self, name: str, why: str = "") -> None:
        """The target's initial value, without state. why: said in a note where it is given."""
        self.weights[name] = self.target.weights[name].clone()
        if why:
            self._lose(name, why)

    def rest(self) -> None:
        """Copy everything not taken yet from the source of the same name and shape. RunError names what has none."""
        for name, wanted in self.target.weights.items():
            if name in self.weights:
                continue
            if name not in self.snapshot.weights or self.snapshot.weights[name].shape != wanted.shape:
                raise RunError(f"the grown model has {name} {tuple(wanted.shape)}, for which the old one holds nothing that fits")
            self.copy(name, name)

    def result(self) -> Snapshot:
        """The finished snapshot. RunError names what is missing or has another shape than the target."""
        for name, wanted in self.target.weights.items():
            if name not in self.weights:
                raise RunError(f"the transform leaves {name} without a value")
            if self.weights[name].shape != wanted.shape:
                raise RunError(
                    f"the transform gives {name} the shape {tuple(self.weights[name].shape)}, the grown model wants {tuple(wanted.shape)}"
                )
        weights = {name: self.weights[name].to(wanted.dtype) for name, wanted in self.target.weights.items()}
        notes = [f"optimizer state starts afresh for {_listed(names)}: {why}" for why, names in self.lost.items()]
        return Snapshot(
            self.target.tree,
            weights,
            self.target.axes,
            self.state,
            self.layouts,
            self.snapshot.powers,
            self.target.output_scale,
            [*self.snapshot.notes, *notes],
            self.snapshot.full,
        )

    def _keep(self, name: str, source: str, state: dict[str, Any]) -> None:
        if state:
            self.state[name] = state
            self.layouts[name] = dict(self.snapshot.layouts.get(source, {}))

    def _lose(self, name: str, why: str) -> None:
        self.state.pop(name, None)
        self.lost.setdefault(why, []).append(name)

    def _held(self, source: str) -> dict[str, Any]:
        """The source's state, in full numbers where the optimizer keeps codes."""
        held, full = self.snapshot.state.get(source, {}), self.snapshot.full
        return full(held, self.snapshot.axes[source], tuple(self.snapshot.weights[source].shape)) if full and held else held

    def _square(self, held: dict[str, Any]) -> Tensor:
        """The second moment whose means along rows and columns are kept."""
        rows, columns = (next(value for key, value in held.items() if self.snapshot.powers.get(key) == word) for word in MEANS)
        share = rows / rows.mean(dim=-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
        return share[..., None] * columns[..., None, :]

    def _why_not(self, source: str, key: str, value: Any, *others: str) -> str:
        """Why a state cannot follow a map, or nothing. others: layouts that can, beside elementwise ones."""
        if not isinstance(value, Tensor) or value.dim() == 0:
            return ""
        layout = self.snapshot.layouts.get(source, {}).get(key)
        if layout == "scalar" or (layout == "per_axis" and self.snapshot.powers.get(key) in WORDS):
            return ""
        if layout is not None and layout not in ("elementwise", *others):
            return f"state {key!r} is {layout.replace('_', ' ')}"
        if layout is None and value.shape != self.snapshot.weights[source].shape:
            return f"state {key!r} is not declared"
        return "" if key in self.snapshot.powers else f"how state {key!r} follows the gradient is not declared"


def through(tensor: Tensor, maps: Maps, factor: str, power: int = 1) -> Tensor:
    """The tensor with every axis selected by its map and multiplied by the map's `value` or `gradient` to a power."""
    for dim, item in enumerate(maps):
        if item is None:
            continue
        tensor = tensor.index_select(dim, item.index)
        scale = getattr(item, factor)
        if scale is not None and power:
            shape = [1] * tensor.dim()
            shape[dim] = -1
            tensor = tensor * (scale**power).to(tensor.dtype).view(shape)
    return tensor.clone()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
