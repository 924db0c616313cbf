"""What ``ingot plan --budget`` answers: the sizes that a budget buys by a fitted law, and the recipe at that size."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.amounts import count
from . import _recipe
from ._output import Output

CLOSE = 0.1  # how far settings may be from what they stand for before it is said


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError
    from ..race.ladder import parameters
    from ..scaling import Fit, rate_and_batch, sizes_for
    from ..scaling.predict import flops
    from ..scaling.shape import at_size

    if arguments.budget is None or not arguments.fit:
        raise UserError("--budget and --fit go together: the law tells what the budget buys")
    fits = [Fit.load(path) for path in arguments.fit]
    laws, rates = [one for one in fits if not one.law.chooses], [one for one in fits if one.law.chooses]
    if len(laws) != 1 or len(rates) > 1:
        raise UserError("--fit wants one fit of losses, and at most one of batch_lr")
    _refuse(arguments)
    tree = _recipe.read(arguments).tree
    if len(tree["stages"]) != 1:
        raise UserError(f"{arguments.recipe} has {len(tree['stages'])} stages; a budget is planned for recipes of one")
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
    _check_settings(answer, tree, params, flops(arguments.budget), output)
    if "stages.0.batch" not in answer["settings"]:
        output.print("learning rate and batch are not in this fit: carry the rate by width (model.init mup), or fit batch_lr")
    output.result(answer)
    return 0


def _refuse(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that a budget passes over."""
    from ..core.errors import UserError

    for flag, value in (("--price", arguments.price), ("--memory", arguments.memory), ("--from", arguments.start_from)):
        if value is not None:
            raise UserError(f"{flag} says nothing with --budget; plan the settings that it prints with {flag}")


def _check_settings(answer: dict[str, Any], tree: dict[str, Any], params: float, budget: float, output: Output) -> None:
    """What the settings come to, by a forecast of their step; a doubt where that is not what the law was asked about."""
    from ..build.check import resolve_run
    from ..build.plan import forecast_stage
    from ..build.rows import steps_in
    from ..build.run import Run
    from ..core.recipe import Recipe
    from ..race.ladder import parameters
    from ..scaling.shape import with_settings

    chosen = with_settings(tree, answer["settings"])
    found = Run(resolve_run(Recipe(chosen)), _recipe.NOWHERE)
    rows = -(-found.batch_rows(0) // found.layout.ranks)
    step = forecast_stage(found, 0, rows).flops * found.layout.ranks
    size, spent = parameters(chosen)[0], step * steps_in(found, 0, flops=step, seconds=1.0)
    answer |= {"parameters": size, "flops": spent}
    output.print(f"they make {count(size)} parameters and spend {count(spent, 'FLOP')}")
    for what, is_, wanted in (("parameters", size, params), ("FLOPs", spent, budget)):
        if abs(is_ / wanted - 1) > CLOSE:
            answer.setdefault("doubts", []).append(doubt := f"their {what} are {is_ / wanted:.2f} times those that the law was asked about")
            output.print(f"doubt: {doubt}")
