"""Predict with a fitted scaling law: loss at a budget, best sizes, the rest of a job.

Every answer says how far it reaches beyond the fitted data and what past predictions of that reach erred; without any, it is refused.

$ ingot predict fit.json --budget 1e21flops
$ ingot predict fit.json --at params=1e9,tokens=2e10
$ ingot predict fit.json --against other.json
$ ingot predict accuracy.json --through loss.json --budget 1e21flops
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

from ..core.amounts import count
from ._output import Output
from .fit import number, pairs

# What each question hears, by the option that asks it; POINT: a fit at a budget or a point.
POINT = ("fit", "budget", "at", "sizes", "through", "level", "untested")
ASKED: dict[str, tuple[str, ...]] = {
    "run": ("at", "past", "level"),
    "job": ("fit", "until", "anneal_from", "plan", "law", "level", "untested"),
    "mixture": ("fit", "most", "weights"),
    "against": ("fit", "at", "along", "untested"),
}
OPTIONS = {*POINT, *ASKED, *(name for names in ASKED.values() for name in names)}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fit", nargs="?", metavar="FIT.json", type=Path, help="what 'ingot fit --save' wrote")
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
    parser.add_argument(
        "--through",
        metavar="LOSS.json",
        type=Path,
        help="with a fit that reads a loss (downstream, average_error): the fit that tells the loss at --budget or --at",
    )
    parser.add_argument("--against", metavar="OTHER.json", type=Path, help="where this law and another cross")
    parser.add_argument("--along", metavar="NAME", help="with --against: the input along which they cross (budget)")
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
    parser.add_argument("--law", help="with --job: a law of whole curves (multi_power)")
    parser.add_argument("--level", type=float, help="of the intervals; by default that of the fit")
    parser.add_argument(
        "--untested", action="store_true", help="answer even where no past prediction reached as far, so that nothing tells the error"
    )


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError

    if arguments.level is not None and not 0 < arguments.level < 1:
        raise UserError(f"--level wants a number between 0 and 1, got {arguments.level:g}")
    _together(arguments)
    if arguments.run is not None:
        return ending(arguments, output)
    if arguments.job is not None:
        return job(arguments, output)
    if arguments.fit is None:
        raise UserError("wants a FIT.json, --run RUN or --job RUN")
    fits, by = _load(arguments.fit)
    if arguments.mixture:
        return mixture(arguments, fits, by, output)
    if by:
        raise UserError(f"{arguments.fit} holds a fit for every {by}; only --mixture can use them together")
    if arguments.against is not None:
        return against(arguments, fits[""], output)
    return point(arguments, fits[""], output)


def _together(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that the question asked would pass over in silence."""
    from ..core.errors import UserError

    asked = [name for name in ASKED if getattr(arguments, name) not in (None, False)]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(f'--{name}' for name in asked)} are different questions; ask one")
    mode = asked[0] if asked else ""
    heard = {*ASKED.get(mode, POINT), mode}
    given = [name for name, value in vars(arguments).items() if name in OPTIONS and value not in (None, False, [])]
    if lost := [name for name in given if name not in heard]:
        name = lost[0]
        flag = "FIT.json" if name == "fit" else f"--{name.replace('_', '-')}"
        partners = " or ".join(f"--{other}" for other, names in ASKED.items() if name in names)
        raise UserError(f"{flag} says nothing with --{mode}" if mode else f"{flag} says nothing of a fit alone; it goes with {partners}")
    for name, partner in (("anneal_from", "until"), ("sizes", "budget")):
        if name in given and partner not in given:
            raise UserError(f"--{name.replace('_', '-')} wants --{partner} too")


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


def _one(path: Path, flag: str) -> Any:
    """The only fit of a file."""
    from ..core.errors import UserError

    fits, by = _load(path)
    if by:
        raise UserError(f"{path} holds a fit for every {by}; {flag} wants one")
    return fits[""]


def _inputs(arguments: argparse.Namespace) -> dict[str, float]:
    return {name: number(value, "--at") for name, value in pairs(arguments.at, "--at").items()}


def point(arguments: argparse.Namespace, fit: Any, output: Output) -> int:
    """The output at a budget or a point."""
    from ..core.errors import UserError
    from ..scaling import predict, rate_and_batch

    inputs = _inputs(arguments)
    if not inputs and arguments.budget is None:
        raise UserError(f"wants --budget or --at with {', '.join(fit.law.inputs)}")
    through = _one(arguments.through, "--through") if arguments.through is not None else None
    if arguments.sizes is not None and not fit.law.chooses:
        raise UserError(f"--sizes is for a fit of batch_lr; {fit.form} finds the best sizes itself")
    if fit.law.chooses and through is not None:
        raise UserError("--through is for a fit that reads a loss; for the best learning rate, --sizes tells the best sizes")
    if fit.law.chooses:
        if unknown := [name for name in inputs if name not in ("params", "tokens")]:
            raise UserError(f"the best learning rate and batch are asked at params and tokens, not {', '.join(unknown)}")
        sizes = _one(arguments.sizes, "--sizes") if arguments.sizes is not None else None
        answer = rate_and_batch(fit, budget=arguments.budget, sizes=sizes, level=arguments.level, untested=arguments.untested, **inputs)
    else:
        answer = predict(fit, budget=arguments.budget, level=arguments.level, through=through, untested=arguments.untested, **inputs)
        output.print(f"{fit.law.output} {answer.value:.4f}   ({answer.level:.0%}: {answer.low:.4f} to {answer.high:.4f})")
    if answer.through is not None:
        loss = answer.through
        output.print(f"through loss {loss['value']:.4f}   ({loss['level']:.0%}: {loss['low']:.4f} to {loss['high']:.4f})")
    for name, value in answer.choice.items():
        low, high = answer.choice_interval.get(name, (value, value))
        show = count if value >= 1 else "{:.4g}".format
        output.print(f"best {name} {show(value)}   ({answer.level:.0%}: {show(low)} to {show(high)})")
    if answer.reach is not None:
        output.print(f"reach: {answer.reach:.3g} times the largest fitted scale")
    output.print(answer.past["note"], *(f"doubt: {doubt}" for doubt in fit.doubts if "determine" in doubt))
    output.result(answer.as_dict())
    return 0


def against(arguments: argparse.Namespace, fit: Any, output: Output) -> int:
    """Where two laws cross."""
    from ..scaling import crossing

    other = _one(arguments.against, "--against")
    answer = crossing(fit, other, along=arguments.along or "budget", untested=arguments.untested, **_inputs(arguments))
    first, second = ("the first", "the second") if answer["lower_before"] == "first" else ("the second", "the first")
    if answer["at"] is None and answer["lower_before"] is None:
        output.print(f"they are the same up to {answer['along']} {answer['up_to']:.3g}, as far as this was looked for")
    elif answer["at"] is None:
        output.print(
            f"they do not cross up to {answer['along']} {answer['up_to']:.3g}, as far as this was looked for; {first} is lower throughout"
        )
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
    from ..scaling.predict import refuse_unknown
    from ..scaling.table import read

    if not all(one.law.mixture for one in fits.values()):
        raise UserError("--mixture wants fits of data_mixing or additive_mixing")
    weights = None
    if arguments.weights is not None:
        table = read(arguments.weights)
        if not {"valid_domain", "weight"} <= set(table):
            raise UserError(f"{arguments.weights} wants the columns valid_domain, weight")
        known = {str(name): weight for name, weight in zip(table["valid_domain"].tolist(), table["weight"].tolist())}
        refuse_unknown(str(arguments.fit), known, fits)
        weights = [known.get(name, 0.0) for name in fits]
        if table["weight"].dtype.kind != "f":
            raise UserError(f"{arguments.weights}: the column weight holds text, not numbers")
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
    at = arguments.at[0] if arguments.at else "100%"
    step = runs.step_at(number(at[:-1], "--at") / 100, found[0], sofar) if at.endswith("%") else number(at, "--at")
    earlier = [(one["step"], one["loss"]) for path in runs.ledgers(arguments.past) for one in (runs.curve(path),)]
    answer = extrapolate(sofar["step"], sofar["loss"], step, earlier=earlier, level=arguments.level or 0.9)
    output.print(
        f"loss {answer.value:.4f} at step {answer.at:,.0f}   ({answer.level:.0%}: {answer.low:.4f} to {answer.high:.4f}); at step {sofar['step'][-1]:,.0f} now",
        answer.past["note"],
    )
    output.result(answer.as_dict())
    return 0


def job(arguments: argparse.Namespace, output: Output) -> int:
    """How a running job goes on."""
    from ..core.errors import UserError
    from ..scaling import continued, planned, runs
    from ..scaling.table import read

    sofar = runs.schedule(arguments.job)
    if arguments.plan is not None:
        plan = read(arguments.plan)
        if not {"step", "lr"} <= set(plan):
            raise UserError(f"{arguments.plan} wants the columns step, lr")
    elif arguments.until is not None:
        plan = planned(sofar, arguments.until, anneal_from=arguments.anneal_from)
    else:
        raise UserError(f"wants --until STEP after the last logged step, {sofar['step'][-1]:g}, or --plan CSV")
    like = _one(arguments.fit, "--job") if arguments.fit is not None else None
    answer = continued(
        sofar, plan, law=arguments.law or "multi_power", like=like, level=arguments.level or 0.9, untested=arguments.untested
    )
    output.table(
        ("step", "loss", "low", "high"),
        [
            (f"{answer.step[row]:.0f}", *(f"{column[row]:.4f}" for column in (answer.loss, answer.low, answer.high)))
            for row in sorted({round(share * (len(answer.step) - 1) / 10) for share in range(11)})
        ],
    )
    output.print(answer.note)
    output.result(answer.as_dict())
    return 0
