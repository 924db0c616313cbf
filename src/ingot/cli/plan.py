"""Forecast what a recipe needs: memory, time, money, and what would make it fit.

Nothing of the planned size is made: the step is pretended on tensors without contents, and the machine's speed is measured for a moment.
--memory plans for a machine with other memory than this one.

$ ingot plan recipes/text/gpt_tiny.yaml
$ ingot plan recipes/text/gpt_small.yaml --memory '80 GiB' --price 2.50
$ ingot plan recipes/text/gpt_tiny.yaml --budget 1e17flops --fit fit.json
"""

from __future__ import annotations

import argparse
from typing import Any

from . import _buy, _recipe
from ._output import Output
from ._words import count, duration, money, size


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)
    parser.add_argument("--memory", metavar="AMOUNT", help="memory of a rank, such as '80 GiB' (default: what is free here)")
    parser.add_argument("--price", type=float, metavar="PER_HOUR", help="price of an hour, to forecast the cost")
    parser.add_argument("--budget", metavar="FLOPS", help="with --fit: the sizes that this budget buys, such as 1e17flops")
    parser.add_argument(
        "--fit",
        metavar="FIT.json",
        action="append",
        default=[],
        help="with --budget: a fit of losses, and perhaps one of batch_lr ('ingot fit', 'ingot ladder')",
    )


def run(arguments: argparse.Namespace, output: Output) -> int:
    if arguments.budget is not None or arguments.fit:
        return _buy.run(arguments, output)
    from ..build.check import resolve_run
    from ..build.fit import available_bytes
    from ..build.plan import plan
    from ..build.run import Run

    section = resolve_run(_recipe.read(arguments))
    if arguments.price is not None:
        section.price_per_hour = arguments.price
    found = Run(section, _recipe.NOWHERE)
    available = _memory(arguments.memory) if arguments.memory else available_bytes(found)
    answer = plan(found, available)
    active = f", {count(answer['active_parameters'])} active" if answer["active_parameters"] < answer["parameters"] else ""
    output.print(
        f"{arguments.recipe}: {count(answer['parameters'])} parameters{active}; {size(available)} {'given' if arguments.memory else 'available'}; "
        f"{count(answer['matmul_flops_per_second'])}FLOP/s measured in matrix products"
    )
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
    from ..core.errors import Problem, UserError
    from ..core.quantities import parse_quantity

    try:
        quantity = parse_quantity(text)
    except ValueError as error:
        raise UserError([Problem("--memory", str(error))]) from None
    if quantity.unit != "bytes":
        raise UserError([Problem("--memory", f"wants an amount of memory such as '80 GiB', got {text!r}")])
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
            f"this one takes {stage['slower'] - 1:+.0%} of its time"
        )
    output.print("")
    total = forecast["flops"] or 1.0
    rows = [(name, count(float(flops)), f"{flops / total:.0%}") for name, flops in forecast["flops_by_component"].items() if flops]
    output.table(("compute of a step", "FLOPs", ""), [*rows, ("step", count(float(forecast["flops"])), "")])
    if stage["changes"] and not stage["fits"]:
        output.print("", "what would take less:")
        output.table(
            ("change", "fits", "costs", "peak"),
            [(one["setting"], "yes" if one["fits"] else "no", one["cost"], size(one["peak"])) for one in stage["changes"]],
            words=3,
        )


def _setting(stage: dict[str, Any]) -> str:
    """How a step is taken, in words."""
    words = [f"micro-batch of {stage['micro_rows']} rows"]
    if stage["checkpointing"] != "none":
        words.append(f"checkpointing {stage['checkpointing']}")
    return ", ".join(words + (["updates inside backward"] if stage["fused_backward"] else []))
