"""Predict with a fitted scaling law: loss at a budget, best sizes, the rest of a job.

Every answer says how far it reaches beyond the fitted data and what past predictions of that reach erred.

$ ingot predict fit.json --budget 1e21flops
$ ingot predict fit.json --at params=1e9,tokens=2e10
$ ingot predict fit.json other.json --crossover
$ ingot predict --run runs/gpt_tiny --at 100% --past runs/gpt_before
$ ingot predict rates.json --budget 1e21flops --sizes fit.json
$ ingot predict mixing.json --mixture --most mix_github=0.2
$ ingot predict --job runs/gpt_tiny --until 24000 --anneal-from 20000
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._output import Output
from ._words import count
from .fit import number, pairs


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fit", nargs="?", metavar="FIT.json", type=Path, help="what 'ingot fit --save' wrote")
    parser.add_argument("other", nargs="?", metavar="OTHER.json", type=Path, help="another fit, with --crossover")
    parser.add_argument("--crossover", action="store_true", help="where the two laws cross (as --against OTHER.json)")
    parser.add_argument("--budget", metavar="FLOPS", help="such as 1e21flops: the best sizes and their loss")
    parser.add_argument(
        "--at",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="inputs of the law, such as params=1e9,tokens=2e10; with --run a step, or a share of the run's budget such as 100%%",
    )
    parser.add_argument(
        "--sizes", metavar="FIT.json", type=Path, help="with --budget and a fit of batch_lr: the law that tells the best sizes"
    )
    parser.add_argument("--against", metavar="OTHER.json", type=Path, help="where this law and another cross")
    parser.add_argument("--along", default="budget", metavar="NAME", help="with --against: the input along which they cross (budget)")
    parser.add_argument(
        "--mixture", action="store_true", help="the shares that make the loss lowest (fits of data_mixing or additive_mixing)"
    )
    parser.add_argument(
        "--most", metavar="NAME=SHARE", action="append", default=[], help="with --mixture: the largest share a domain may have"
    )
    parser.add_argument("--weights", metavar="CSV", type=Path, help="with --mixture: columns valid_domain, weight")
    parser.add_argument(
        "--run", metavar="RUN", type=Path, help="a run that is not finished: its training loss at --at, by several shapes of learning curve"
    )
    parser.add_argument(
        "--past",
        metavar="RUN",
        type=Path,
        nargs="+",
        default=[],
        help="with --run: finished runs like it, which tell how wrong such predictions are",
    )
    parser.add_argument(
        "--job", metavar="RUN", type=Path, help="a run folder, its ledger.jsonl, or a csv with step, lr, loss: how it goes on"
    )
    parser.add_argument("--until", metavar="STEP", type=int, help="with --job: its last step")
    parser.add_argument("--anneal-from", metavar="STEP", type=int, help="with --job: where the rate starts to fall linearly to zero")
    parser.add_argument("--plan", metavar="CSV", type=Path, help="with --job: columns step, lr of what is to come")
    parser.add_argument("--law", default="multi_power", help="with --job: a law of whole curves (multi_power)")
    parser.add_argument("--level", type=float, help="of the intervals; by default that of the fit")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError

    if arguments.level is not None and not 0 < arguments.level < 1:
        raise UserError(f"--level wants a number between 0 and 1, got {arguments.level:g}")
    if arguments.run is not None:
        return ending(arguments, output)
    if arguments.job is not None:
        return job(arguments, output)
    if arguments.fit is None:
        raise UserError("wants a FIT.json, --run RUN or --job RUN")
    if (arguments.other is not None) != arguments.crossover:
        raise UserError("--crossover wants two fits, and two fits want --crossover")
    arguments.against = arguments.other or arguments.against
    fits, by = _load(arguments.fit)
    if arguments.mixture:
        return mixture(arguments, fits, by, output)
    if by:
        raise UserError(f"{arguments.fit} holds a fit for every {by}; only --mixture can use them together")
    if arguments.against is not None:
        return against(arguments, fits[""], output)
    return point(arguments, fits[""], output)


def _load(path: Path) -> tuple[dict[str, Any], str]:
    from ..core.errors import UserError
    from ..scaling import Fit

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if isinstance(data, dict) and data.get("kind") == "ingot scaling fits":
        return {name: Fit.from_json(one, path) for name, one in data["fits"].items()}, data["by"]
    return {"": Fit.from_json(data, path)}, ""


def _inputs(arguments: argparse.Namespace) -> dict[str, float]:
    return {name: number(value, "--at") for name, value in pairs(arguments.at, "--at").items()}


def point(arguments: argparse.Namespace, fit: Any, output: Output) -> int:
    """The output at a budget or a point."""
    from ..core.errors import UserError
    from ..scaling import predict, rate_and_batch

    inputs = _inputs(arguments)
    if not inputs and arguments.budget is None:
        raise UserError(f"wants --budget or --at with {', '.join(fit.law.inputs)}")
    if hasattr(fit.law, "optimum"):
        if unknown := [name for name in inputs if name not in ("params", "tokens")]:
            raise UserError(f"the best learning rate and batch are asked at params and tokens, not {', '.join(unknown)}")
        sizes = _load(arguments.sizes)[0].get("") if arguments.sizes is not None else None
        answer = rate_and_batch(fit, budget=arguments.budget, sizes=sizes, level=arguments.level, **inputs)
    else:
        answer = predict(fit, budget=arguments.budget, level=arguments.level, **inputs)
        output.print(f"{fit.law.output} {answer.value:.4f}   ({answer.level:.0%}: {answer.low:.4f} to {answer.high:.4f})")
    for name, value in answer.choice.items():
        low, high = answer.choice_interval.get(name, (value, value))
        show = count if value >= 1 else "{:.4g}".format
        output.print(f"best {name} {show(value)}   ({answer.level:.0%}: {show(low)} to {show(high)})")
    if answer.reach is not None:
        output.print(f"reach: {answer.reach:.3g} times the largest fitted scale")
    output.print(answer.past["note"])
    output.result(answer.as_dict())
    return 0


def against(arguments: argparse.Namespace, fit: Any, output: Output) -> int:
    """Where two laws cross."""
    from ..core.errors import UserError
    from ..scaling import crossing

    others, by = _load(arguments.against)
    if by:
        raise UserError(f"{arguments.against} holds several fits; --against wants one")
    answer = crossing(fit, others[""], along=arguments.along, **_inputs(arguments))
    first, second = ("the first", "the second") if answer["lower_before"] == "first" else ("the second", "the first")
    if answer["at"] is None:
        output.print(f"they do not cross; {first} is lower throughout")
    else:
        ends = f"   ({answer['level']:.0%}: {answer['interval'][0]:.3g} to {answer['interval'][1]:.3g})" if answer["interval"] else ""
        output.print(f"they cross at {answer['along']} {answer['at']:.4g}{ends}; {first} is lower before, {second} after")
    output.print(*(f"{name}: {known['note']}" for name, known in answer["past"].items()))
    output.result(answer)
    return 0


def mixture(arguments: argparse.Namespace, fits: dict[str, Any], by: str, output: Output) -> int:
    """The best shares."""
    from ..core.errors import UserError
    from ..scaling import best_mixture
    from ..scaling.table import read

    if not all(one.law.mixture for one in fits.values()):
        raise UserError("--mixture wants fits of data_mixing or additive_mixing")
    weights = None
    if arguments.weights is not None:
        table = read(arguments.weights)
        if not {"valid_domain", "weight"} <= set(table):
            raise UserError(f"{arguments.weights} wants the columns valid_domain, weight")
        known = dict(zip(table["valid_domain"].tolist(), table["weight"].tolist()))
        weights = [known.get(name, 0.0) for name in fits]
    answer = best_mixture(
        list(fits.values()), weights, most={name: number(value, "--most") for name, value in pairs(arguments.most, "--most").items()}
    )
    output.table(("domain", "share"), [(name.removeprefix("mix_"), f"{share:.3f}") for name, share in answer["shares"].items()])
    output.print(f"predicted loss {answer['loss']:.4f}", answer["past"]["note"])
    if answer["distance"] > 0.15:
        output.print(f"doubt: the nearest mixture that was measured is {answer['distance']:.0%} away; try this one before trusting it")
    output.result(answer | {"by": by})
    return 0


def ending(arguments: argparse.Namespace, output: Output) -> int:
    """How a running job will end."""
    from ..core.errors import UserError
    from ..scaling import extrapolate, runs

    if len(arguments.at) > 1:
        raise UserError("--run takes one --at")
    found = runs.ledgers([arguments.run])
    if len(found) > 1:
        raise UserError(f"{arguments.run} holds {len(found)} runs; --run wants one")
    sofar = runs.curve(found[0])
    step = _step(arguments.at[0] if arguments.at else "100%", found[0], sofar)
    earlier = [(one["step"], one["loss"]) for path in runs.ledgers(arguments.past) for one in (runs.curve(path),)]
    answer = extrapolate(sofar["step"], sofar["loss"], step, earlier=earlier, level=arguments.level or 0.9)
    output.print(
        f"loss {answer.value:.4f} at step {answer.at:,.0f}   ({answer.level:.0%}: {answer.low:.4f} to {answer.high:.4f}); at step {sofar['step'][-1]:,.0f} now",
        answer.past["note"],
    )
    output.result(answer.as_dict())
    return 0


def _step(at: str, ledger: Path, sofar: dict[str, Any]) -> float:
    """A step from a step, or from a share of the budget in the run's own recipe."""
    from ..core.errors import UserError
    from ..core.quantities import parse_quantity
    from ..core.recipe import load

    if not at.endswith("%"):
        return number(at, "--at")
    try:
        stages = load(ledger.parent / "recipe.yaml").tree["stages"]
        budgets = [parse_quantity(stage["budget"]) for stage in stages]
    except (KeyError, TypeError, ValueError, OSError, UserError) as error:
        raise UserError(f"{ledger.parent} has no recipe that tells its budget; give a step: {error}") from None
    unit, last = budgets[-1].unit, float(sofar["step"][-1])
    spent = {"steps": last, "tokens": float(sofar["tokens"][-1]), "flops": float(sofar["flop"][-1])}.get(unit)
    if spent is None or any(one.unit != unit for one in budgets):
        raise UserError(f"the budget is in {unit}, of which steps cannot be told; give a step")
    return sum(one.value for one in budgets) * number(at[:-1], "--at") / 100 * last / spent


def job(arguments: argparse.Namespace, output: Output) -> int:
    """How a running job goes on."""
    import numpy as np

    from ..core.errors import UserError
    from ..scaling import continued
    from ..scaling.table import read

    sofar = _curve(arguments.job)
    last, rate = float(sofar["step"][-1]), float(sofar["lr"][-1])
    if arguments.plan is not None:
        plan: Any = read(arguments.plan)
        if not {"step", "lr"} <= set(plan):
            raise UserError(f"{arguments.plan} wants the columns step, lr")
    elif arguments.until is not None and arguments.until > last:
        step = np.linspace(last, arguments.until, 101)[1:]
        start = max(last, float(arguments.anneal_from)) if arguments.anneal_from is not None else None
        fall = np.ones(100) if start is None else np.clip((arguments.until - step) / max(arguments.until - start, 1.0), 0.0, 1.0)
        plan = {"step": step, "lr": rate * fall}
    else:
        raise UserError(f"wants --until STEP after the last logged step, {last:g}, or --plan CSV")
    like = _load(arguments.fit)[0].get("") if arguments.fit is not None else None
    answer = continued(sofar, plan, law=arguments.law, like=like, level=arguments.level or 0.9)
    output.table(
        ("step", "loss", "low", "high"),
        [
            (f"{answer.step[row]:.0f}", *(f"{column[row]:.4f}" for column in (answer.loss, answer.low, answer.high)))
            for row in np.unique(np.linspace(0, len(answer.step) - 1, 11).astype(int))
        ],
    )
    worst = answer.past[-1] if answer.past else None
    if worst is None:
        output.print("doubt: the run is too short to test this on its own past")
    else:
        output.print(
            f"within this run, predictions up to {max(part['from'] for part in answer.past):g} times their data were off by {worst['mean']:.2%} on average"
        )
        if float(answer.step[-1]) / last > worst["to"]:
            output.print("doubt: this reaches further than any prediction that the run's own past could test")
    output.result(
        {
            "step": answer.step.tolist(),
            "loss": answer.loss.tolist(),
            "low": answer.low.tolist(),
            "high": answer.high.tolist(),
            "level": answer.level,
            "past": answer.past,
        }
    )
    return 0


def _curve(path: Path) -> dict[str, Any]:
    """step, lr, loss of a run folder, a ledger or a csv."""
    import numpy as np

    from ..core.errors import UserError
    from ..scaling.table import read

    path = path / "ledger.jsonl" if path.is_dir() else path
    if path.suffix != ".jsonl":
        table: dict[str, Any] = read(path)
    else:
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if '"step"' in line]
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}") from None
        steps = {line["step"]: line for line in lines if line.get("kind") == "step" and line.get("lr", 0) > 0}
        table = {name: np.array([steps[step][name] for step in sorted(steps)], float) for name in ("step", "lr", "loss")}
    if missing := [name for name in ("step", "lr", "loss") if name not in table]:
        raise UserError(f"{path} wants the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    if len(table["step"]) < 2:
        raise UserError(f"{path} has too few steps")
    return {name: table[name] for name in ("step", "lr", "loss")}
