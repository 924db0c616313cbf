"""What objectives share that are made of others: building them, keeping apart what they prepare, joining what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any

from torch import Tensor, nn

from ..core.parts import Spec
from ..core.seams import SLOTS

Batch = dict[str, Tensor]


class Several(nn.Module):
    """What each prepares lies in the batch under ``name/key``."""

    def __init__(self, specs: Mapping[str, Spec], wiring: Mapping[str, Any]):
        super().__init__()
        self.names = list(specs)
        self.inner = nn.ModuleList(spec.build(**wiring) for spec in specs.values())  # no dict: a name may be one that modules have
        inner: list[Any] = list(self.inner)
        self.causal = all(item.causal for item in inner)
        self.couples_batch = False  # see refused
        if any(hasattr(item, "stepped") for item in inner):
            self.stepped = MethodType(_stepped, self)
        if any(hasattr(item, "begin") for item in inner):
            self.begin = MethodType(_begin, self)
        if scoring := [item for item in inner if hasattr(item, "logits")]:
            self.logits = scoring[0].logits
        if found := [item for item in inner if hasattr(item, "features")]:
            self.features = found[0].features

    @property
    def objectives(self) -> dict[str, Any]:
        """The objectives by name."""
        return dict(zip(self.names, self.inner, strict=True))

    @property
    def output_scale(self) -> float:
        """Set by initial values, for all heads that have one."""
        return float(getattr(next(iter(self.objectives.values())), "output_scale", 1.0))

    @output_scale.setter
    def output_scale(self, value: float) -> None:
        for item in self.objectives.values():
            if hasattr(item, "output_scale"):
                item.output_scale = value

    def keep_apart(self, batch: Batch, given: Mapping[str, Batch]) -> Batch:
        """The batch, with what each objective prepared of its own rows beside it, and units under their losses' names."""
        result = dict(batch)
        for name, seen in given.items():
            prepared = self.objectives[name].prepare(seen)
            result |= {f"{name}/{key}": value for key, value in prepared.items() if value is not batch.get(key)}
            result |= {f"units/{name}{key.removeprefix('units')}": value for key, value in prepared.items() if key.split("/")[0] == "units"}
        return result

    def of(self, name: str, batch: Batch) -> Batch:
        """The batch as one objective prepared it."""
        own = {key.removeprefix(f"{name}/"): value for key, value in batch.items() if key.startswith(f"{name}/")}
        others = tuple(f"{other}/" for other in self.objectives)
        return {key: value for key, value in batch.items() if not key.startswith((*others, "units/"))} | own


def refused(specs: Mapping[str, Spec]) -> Iterable[str]:
    """Why some of the objectives cannot be among several."""
    for name, spec in specs.items():
        if getattr(spec.target, "couples_batch", False):
            yield f"objectives.{name}: {spec.name} compares the rows of a whole step, which is done for an objective by itself only"
    for name in specs:
        if not name.isidentifier() or name == "units":
            yield f"objectives: {name!r} is not a plain word other than units"


def wiring_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What an objective is wired with, out of the arguments (``locals()``) of one that passes all of it on."""
    return {name: arguments[name] for name in SLOTS["objective"].wiring}


def _begin(several: Several, model: nn.Module) -> None:
    for item in several.objectives.values():
        if hasattr(item, "begin"):
            item.begin(model)


def _stepped(several: Several, state: Any, log: Any) -> None:
    for item in several.objectives.values():
        if hasattr(item, "stepped"):
            item.stepped(state, log)
