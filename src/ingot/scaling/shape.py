"""The shape of a recipe's model at another size: width and depth grow alike, heads keep their width and share their keys as before."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..core.errors import UserError

ALIKE = 1.5  # by what factor depth may outgrow width, to come near the size


def at_size(tree: Mapping[str, Any], params: float, count: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    """Settings by path (model.width, model.encoder.depth, model.encoder.mixer.heads, ...) that bring a recipe nearest to a number of parameters.

    count: the parameters of a recipe's tree; a UserError means that this shape cannot be. They go with width^2 depth; embeddings bend that
    at small sizes, so the width is searched, then the depth. Raises UserError where no shape near that size can be.
    """
    model, tried = tree["model"], dict[tuple[Any, ...], float]()
    stacks = [(name, model[name]) for name in ("encoder", "decoder") if isinstance(model.get(name), dict)]
    deep = any(stack.get("depth") for _, stack in stacks)
    unit = math.lcm(
        1,
        *(
            model["width"] // mixer["heads"] * _shared(mixer)
            for stack in stacks
            for _, mixer in _mixers(*stack)
            if not stack[1].get("inner")
        ),
    )
    refused: list[UserError] = []

    def off(width_by: float, depth_by: float) -> tuple[float, dict[str, Any]]:
        """How far from the size, as a ratio's logarithm, and the settings."""
        settings = _settings(model["width"], stacks, max(1, round(model["width"] * width_by / unit)) * unit, depth_by)
        key = tuple(settings.values())
        if key not in tried:
            try:
                tried[key] = math.log(count(with_settings(tree, settings)) / params)
            except UserError as error:
                tried[key] = math.inf
                refused.append(error)
        return tried[key], settings

    guess = (params / count(copy.deepcopy(dict(tree)))) ** (1 / 3 if deep else 1 / 2)
    found = [(*off(factor, factor), factor) for factor in (guess * 1.15**step for step in range(-4, 5))]
    best = min(found, key=lambda one: abs(one[0]))
    for _ in range(3 if deep and math.isfinite(best[0]) else 0):
        wide = best[1]["model.width"] / model["width"]
        factor = min(max(best[2] * math.exp(-best[0]), wide / ALIKE), wide * ALIKE)
        best = min(best, (*off(wide, factor), factor), key=lambda one: abs(one[0]))
    if not math.isfinite(best[0]):
        raise refused[-1]
    return best[1]


def _mixers(name: str, stack: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A stack's mixers with heads, by their paths."""
    for slot in ("mixer", "cross"):
        if isinstance(mixer := stack.get(slot), dict) and mixer.get("heads"):
            yield f"model.{name}.{slot}", mixer


def _shared(mixer: dict[str, Any]) -> int:
    """Heads that share their keys."""
    return max(1, mixer["heads"] // (mixer.get("kv_heads") or mixer["heads"]))


def _settings(before: int, stacks: list[tuple[str, dict[str, Any]]], width: int, depth_by: float) -> dict[str, Any]:
    found, wider = {"model.width": width}, width / before
    for name, stack in stacks:
        if stack.get("depth"):
            found[f"model.{name}.depth"] = max(1, round(stack["depth"] * depth_by))
        for path, mixer in _mixers(name, stack):
            shared = _shared(mixer)
            heads = found[f"{path}.heads"] = max(1, round(mixer["heads"] * wider / shared)) * shared
            if mixer.get("kv_heads"):
                found[f"{path}.kv_heads"] = heads // shared
            if stack.get("inner"):  # a width of its own, of as many such heads
                found[f"model.{name}.inner"] = stack["inner"] * heads // mixer["heads"]
        feedforward = stack.get("feedforward")
        if isinstance(feedforward, dict) and feedforward.get("hidden"):
            found[f"model.{name}.feedforward.hidden"] = max(1, round(feedforward["hidden"] * wider))
    return found


def with_settings(tree: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A copy of a recipe's tree with values by dotted path."""
    trial = copy.deepcopy(dict(tree))
    for path, value in settings.items():
        *words, last = path.split(".")
        place: Any = trial
        for word in words:
            place = place[int(word) if word.isdigit() else word]
        place[last] = value
    return trial
