"""The shape of a recipe's model at another size: width and depth grow alike, heads keep their width."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any


def at_size(tree: Mapping[str, Any], params: float, count: Callable[[dict[str, Any]], int]) -> dict[str, Any]:
    """Settings by path (model.width, model.encoder.depth, model.encoder.mixer.heads) that bring a recipe nearest to a number of parameters.

    count: the parameters of a recipe's tree. They go with width^2 depth; embeddings bend that at small sizes, so the width is searched.
    """
    model = tree["model"]
    encoder = model.get("encoder", {}) if isinstance(model.get("encoder"), dict) else {}
    mixer = encoder.get("mixer") if isinstance(encoder.get("mixer"), dict) else {}
    width, depth, heads = model["width"], encoder.get("depth"), (mixer or {}).get("heads")
    head = width // heads if heads else 8
    best: tuple[float, dict[str, Any]] = math.inf, {}
    guess = (params / count(copy.deepcopy(dict(tree)))) ** (1 / 3 if depth else 1 / 2)
    for factor in (guess * 1.15**step for step in range(-4, 5)):
        wide, deep = max(1, round(width * factor / head)) * head, max(1, round(depth * factor)) if depth else None
        trial = copy.deepcopy(dict(tree))
        trial["model"]["width"], settings = wide, {"model.width": wide}
        if deep:
            trial["model"]["encoder"]["depth"] = settings["model.encoder.depth"] = deep
        if heads:
            trial["model"]["encoder"]["mixer"]["heads"] = settings["model.encoder.mixer.heads"] = wide // head
        off = abs(math.log(count(trial) / params))
        if off < best[0]:
            best = off, settings
    return best[1]
