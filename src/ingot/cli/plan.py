"""Forecast what a recipe needs: memory, time, money, and what would make it fit.

Nothing of the planned size is made: the step is pretended on tensors without contents, and the machine's speed is measured for a moment.
--memory plans for a machine with other memory than this one.

$ ingot plan recipes/text/gpt_tiny.yaml
$ ingot plan recipes/text/gpt_small.yaml --memory '80 GiB' --price 2.50
$ ingot plan recipes/text/continue_hf.yaml --from hf:path/to/model
$ ingot plan recipes/text/gpt_tiny.yaml --budget 1e17flops --fit fit.json
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from ..core.amounts import count, duration, money, size
from . import _buy, _recipe
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)
    _recipe.configure_start(parser)
    parser.add_argument("--memory", metavar="AMOUNT", help="memory of a rank, such as '80 GiB' (default: what is free here)")
    _recipe.configure_price(parser, "price of an hour, to forecast the cost")
    parser.add_argument("--budget", metavar="FLOPS", help="with --fit: the sizes that this budget buys, such as 1e17flops")
    parser.add_argument(
        "--fit",
        metavar="FIT.json",
        action="append",
        default=[],
        help="with --budget: a fit of losses, and perhaps one of batch_lr ('ingot fit', 'ingot ladder')",
    )
    parser.add_argument(
        "--untested", action="store_true", help="with --budget: answer even where no past prediction of the fit reached as far"
    )


def run(arguments: argparse.Namespace, output: Output) -> int:
    if arguments.budget is not None or arguments.fit:
        return _buy.run(arguments, output)
    from ..build.check import resolve_run
    from ..build.device import slow_precision
    from ..build.memory_fit import available_bytes, promised
    from ..build.plan import plan
    from ..build.run import Run
    from ..core.errors import UserError

    if arguments.untested:
        raise UserError("--untested goes with --budget and --fit")
    price, section = _recipe.price(arguments), resolve_run(_recipe.continued(arguments))
    if price is not None:
        section.price_per_hour = price
    found = Run(section, _recipe.NOWHERE)
    given = _memory(arguments.memory) if arguments.memory is not None else None
    available = available_bytes(found) if given is None else promised(given)
    answer = plan(found, available)
    active = f", {count(answer['active_parameters'])} active" if answer["active_parameters"] < answer["parameters"] else ""
    output.print(
        f"{arguments.recipe}: {count(answer['parameters'])} parameters{active}; {size(available)} {'available' if given is None else f'of the {size(given)} given may be planned for'}; "
        f"{count(answer['matmul_flops_per_second'], 'FLOP/s')} measured in matrix products"
    )
    for doubt in filter(None, (slow_precision(found.dtype, found.device), answer["matmul_doubt"])):
        output.print(doubt)
    for index, stage in enumerate(answer["stages"]):
        _tell_stage(index, stage, output)
    cost = f", {money(answer['cost'])} at {section.price_per_hour:g} an hour" if answer["cost"] is not None else ""
    output.print(
        "",
        f"in all: {duration(answer['seconds'])}{cost}" if answer["seconds"] is not None else "in all: unknown",
        "it fits" if answer["fits"] else "it does NOT fit",
    )
    output.result(answer | {"recipe": arguments.recipe})
    return 0 if answer["fits"] else 1


def _memory(text: str) -> int:
    from ..core.errors import Problem, UserError, shown
    from ..core.quantities import parse_quantity

    try:
        quantity = parse_quantity(text)
    except ValueError:
        quantity = None
    if quantity is None or quantity.unit != "bytes" or quantity.value <= 0:
        raise UserError([Problem("--memory", f"wants an amount of memory such as '80 GiB', got {shown(text)}")])
    return int(quantity.value)


def _tell_stage(index: int, stage: dict[str, Any], output: Output) -> None:
    """Memory by kind, compute by component, then the changes that would take less."""
    from ..core.quantities import parse_quantity

    forecast = stage["forecast"]
    budget = parse_quantity(stage["budget"])
    amount = f"{count(budget.value)} {budget.unit}" if budget.value >= 1000 else str(budget)
    output.print("", f"stage {index}: {amount}, {stage['steps']:,.0f} steps of {duration(stage['step_seconds'])}, {_setting(stage)}")
    most = {"gradients": size(forecast["gradients"])} if forecast["gradients"] > forecast["by_kind"]["gradients"] else {}
    output.table(
        ("memory", "at the peak", *(["at most"] if most else [])),
        [
            (kind.replace("_", " "), size(amount), *([most.get(kind, "")] if most else []))
            for kind, amount in [*forecast["by_kind"].items(), ("peak", forecast["peak"])]
        ],
    )
    if stage["naive"]["peak"] > forecast["peak"]:
        output.print(
            f"in micro-batches of {stage['naive']['micro_rows']} with every activation kept: {size(stage['naive']['peak'])}, a step of {duration(stage['naive']['step_seconds'])}; "
            f"this one takes {abs(stage['slower'] - 1):.0%} {'more' if stage['slower'] >= 1 else 'less'} time"
        )
    output.print("")
    total = forecast["flops"] or 1.0
    rows = [(name, count(flops, "FLOP"), f"{flops / total:.0%}") for name, flops in forecast["flops_by_component"].items() if flops]
    output.table(("compute of a step", "FLOPs", ""), [*rows, ("step", count(forecast["flops"], "FLOP"), "")])
    if not stage["fits"]:
        _tell_remedies(stage["changes"], stage["together"], output)


def _tell_remedies(changes: list[dict[str, Any]], together: dict[str, Any], output: Output) -> None:
    """What each change alone saves, and what makes it fit."""
    if changes:
        output.print("", "what would take less:")
        output.table(
            ("change", "fits", "costs", "peak"),
            [(one["setting"], "yes" if one["fits"] else "no", one["cost"], size(one["peak"])) for one in changes],
            words=3,
        )
    chosen = together["changes"]
    if together["fits"]:
        output.print("", f"the cheapest that {'fit together' if len(chosen) > 1 else 'fits'}, at {size(together['peak'])}:")
    else:
        output.print("", f"nothing here makes it fit; the least is {size(together['peak'])}" + (", with all of:" if chosen else ""))
    for one in chosen:
        output.print(f"  {shlex.quote(one['setting'])}   ({one['cost']})")


def _setting(stage: dict[str, Any]) -> str:
    """How a step is taken, in words."""
    words = [f"micro-batch of {stage['micro_rows']} row{'s' * (stage['micro_rows'] != 1)}"]
    if stage["checkpointing"] != "none":
        words.append(f"checkpointing {stage['checkpointing']}")
    return ", ".join(words + (["updates inside backward"] if stage["fused_backward"] else []))
