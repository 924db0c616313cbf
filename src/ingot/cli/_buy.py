"""What ``ingot plan --budget`` answers: the sizes that a budget buys by a fitted law, and the recipe at that size."""

from __future__ import annotations

import argparse
import copy
import math
from typing import Any

from . import _recipe
from ._output import Output
from ._words import count


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError
    from ..scaling import Fit, rate_and_batch, sizes_for

    if arguments.budget is None or not arguments.fit:
        raise UserError("--budget and --fit go together: the law tells what the budget buys")
    fits = [Fit.load(path) for path in arguments.fit]
    laws, rates = [one for one in fits if not hasattr(one.law, "optimum")], [one for one in fits if hasattr(one.law, "optimum")]
    if len(laws) != 1 or len(rates) > 1:
        raise UserError("--fit wants one fit of losses, and at most one of batch_lr")
    tree = _recipe.read(arguments).tree
    best = sizes_for(laws[0], arguments.budget)
    params, tokens = best.choice["params"], best.choice["tokens"]
    answer: dict[str, Any] = {
        "recipe": arguments.recipe,
        "budget": arguments.budget,
        "best": best.as_dict(),
        "settings": _settings(tree, params, tokens),
    }
    output.print(
        f"{arguments.budget} buys {count(params)} parameters on {count(tokens)} tokens: {laws[0].law.output} {best.value:.4f}   ({best.level:.0%}: {best.low:.4f} to {best.high:.4f})"
    )
    for name, (low, high) in best.choice_interval.items():
        output.print(f"{name} {count(low)} to {count(high)}")
    if rates:
        chosen = rate_and_batch(rates[0], params=params, tokens=tokens)
        answer["rates"] = chosen.as_dict()
        answer["settings"] |= {
            "stages.0.optimizer.lr": f"{chosen.choice['lr']:.3g}",
            "stages.0.batch": f"{chosen.choice['batch']:.0f} tokens",
        }
        output.print(f"best lr {chosen.choice['lr']:.3g}, batch {count(chosen.choice['batch'])} tokens; {chosen.past['note']}")
    if best.reach is not None:
        output.print(f"reach: {best.reach:.3g} times the largest fitted scale")
    output.print(best.past["note"], "", f"in {arguments.recipe}:", *(f"  {key}={value!r}" for key, value in answer["settings"].items()))
    if "stages.0.batch" not in answer["settings"]:
        output.print("learning rate and batch are not in this fit: carry the rate by width (model.init mup), or fit batch_lr")
    output.result(answer)
    return 0


def _settings(tree: dict[str, Any], params: float, tokens: float) -> dict[str, Any]:
    """The recipe's own shape at another size: width and depth grow alike, heads keep their width."""
    from ..race.ladder import parameters

    now, _ = parameters(tree)
    model = tree["model"]
    encoder = model.get("encoder", {}) if isinstance(model.get("encoder"), dict) else {}
    mixer = encoder.get("mixer") if isinstance(encoder.get("mixer"), dict) else {}
    width, depth, heads = model["width"], encoder.get("depth"), (mixer or {}).get("heads")
    head = width // heads if heads else 8
    # Parameters go with width^2 depth; embeddings bend that at small sizes, so the width is searched.
    best: tuple[float, dict[str, Any]] | None = None
    guess = (params / now) ** (1 / 3 if depth else 1 / 2)
    for factor in (guess * 1.15**step for step in range(-4, 5)):
        wide, deep = max(1, round(width * factor / head)) * head, max(1, round(depth * factor)) if depth else None
        trial = copy.deepcopy(tree)
        trial["model"]["width"], settings = wide, {"model.width": wide}
        if deep:
            trial["model"]["encoder"]["depth"] = settings["model.encoder.depth"] = deep
        if heads:
            trial["model"]["encoder"]["mixer"]["heads"] = settings["model.encoder.mixer.heads"] = wide // head
        off = abs(math.log(parameters(trial)[0] / params))
        if best is None or off < best[0]:
            best = off, settings
    assert best is not None
    return best[1] | {"stages.0.budget": f"{tokens:.0f} tokens"}
