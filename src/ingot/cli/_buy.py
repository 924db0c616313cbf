"""What ``ingot plan --budget`` answers: the sizes that a budget buys by a fitted law, and the recipe at that size."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.amounts import count
from . import _recipe
from ._output import Output


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError
    from ..race.ladder import parameters
    from ..scaling import Fit, rate_and_batch, sizes_for
    from ..scaling.shape import at_size

    if arguments.budget is None or not arguments.fit:
        raise UserError("--budget and --fit go together: the law tells what the budget buys")
    fits = [Fit.load(path) for path in arguments.fit]
    laws, rates = [one for one in fits if not one.law.chooses], [one for one in fits if one.law.chooses]
    if len(laws) != 1 or len(rates) > 1:
        raise UserError("--fit wants one fit of losses, and at most one of batch_lr")
    tree = _recipe.read(arguments).tree
    best = sizes_for(laws[0], arguments.budget, untested=arguments.untested)
    params, tokens = best.choice["params"], best.choice["tokens"]
    answer: dict[str, Any] = {
        "recipe": arguments.recipe,
        "budget": arguments.budget,
        "best": best.as_dict(),
        "settings": at_size(tree, params, lambda one: parameters(one)[0]) | {"stages.0.budget": f"{tokens:.0f} tokens"},
    }
    output.print(
        f"{arguments.budget} buys {count(params)} parameters on {count(tokens)} tokens: {laws[0].law.output} {best.value:.4f}   ({best.level:.0%}: {best.low:.4f} to {best.high:.4f})"
    )
    for name, (low, high) in best.choice_interval.items():
        output.print(f"{name} {count(low)} to {count(high)}")
    if rates:
        chosen = rate_and_batch(rates[0], params=params, tokens=tokens, untested=arguments.untested)
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
