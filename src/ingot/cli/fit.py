"""Fit a scaling law to measured runs.

Prints the estimates with their intervals, what held-out predictions erred by how far they reached, and reasons for doubt. Columns are those
that the law reads ('ingot parts scaling.form/chinchilla' tells); --columns maps or computes them. Several laws are compared by their
held-out errors on the same rows, and the best is named (and saved).

$ ingot fit chinchilla points.csv --columns tokens=flop/6/params --save fit.json
$ ingot fit chinchilla points.csv --columns tokens=flop/6/params --without-highest 5 --interval bootstrap --draws 4000
$ ingot fit data_mixing mixtures.csv.gz --where model=70M --where step=30000 --by valid_domain --save fits.json
$ ingot fit data_mixing,data_mixing:combine=sum,additive_mixing mixtures.csv.gz --by valid_domain
$ ingot fit multi_power curves.csv --columns run=schedule --where model_millions=25
$ ingot fit multi_power curves.csv --columns run=schedule --knob fit=paper --hold-out schedule=cosine_72000
$ ingot fit chinchilla runs/sweep --hold-out 'flop>1e15' --report fit.html
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "law",
        metavar="LAW",
        help="a form: chinchilla, over_training, data_mixing, multi_power, ... ('ingot parts scaling.form'); several, with commas, are compared; LAW:KNOB=VALUE sets a knob",
    )
    parser.add_argument(
        "points",
        metavar="POINTS",
        type=Path,
        nargs="+",
        help="a csv with a row for each measurement (also .csv.gz), or folders with finished runs",
    )
    parser.add_argument(
        "--columns",
        metavar="NAME=COLUMN",
        action="append",
        default=[],
        help="name a column, or compute it: tokens=flop/6/params; several with commas",
    )
    parser.add_argument("--where", metavar="COLUMN=VALUE", action="append", default=[], help="keep such rows; also !=, <, >, <=, >=")
    parser.add_argument(
        "--hold-out", metavar="COLUMN>VALUE", action="append", default=[], help="keep such rows from the fit, and predict them"
    )
    parser.add_argument("--without-highest", metavar="K", type=int, default=0, help="leave out the K rows of highest loss (diverged runs)")
    parser.add_argument("--by", metavar="COLUMN", help="fit every value of this column by itself")
    parser.add_argument("--fixed", metavar="NAME=VALUE", action="append", default=[], help="a coefficient that is known")
    parser.add_argument(
        "--prior",
        metavar="NAME=VALUE:DEVIATION",
        action="append",
        default=[],
        help="a coefficient that is roughly known (relative deviation for positive ones)",
    )
    parser.add_argument("--knob", metavar="NAME=VALUE", action="append", default=[], help="a knob of the form")
    parser.add_argument("--delta", type=float, help="Huber threshold on the residual; by default as published, else from the residuals")
    parser.add_argument("--level", type=float, default=0.9, help="of the intervals (0.9)")
    parser.add_argument("--interval", choices=("profile", "bootstrap", "none"), default="profile", help="how intervals are found (profile)")
    parser.add_argument("--draws", type=int, default=400, help="bootstrap draws (400)")
    parser.add_argument("--no-backtest", action="store_true", help="skip the held-out predictions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="FIT.json", type=Path, help="keep the fit for 'ingot predict'")
    parser.add_argument("--report", metavar="FIT.html", type=Path, help="a page with points, law, intervals, and what was held out")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError
    from ..scaling.table import rename, take, where

    _check(arguments)
    table = where(rename(_read(arguments), pairs(arguments.columns, "--columns")), arguments.where)
    if arguments.without_highest:
        loss = table.get("loss")
        if loss is None or loss.dtype.kind != "f":
            raise UserError("--without-highest wants a column 'loss' of numbers")
        table = take(table, loss.argsort().argsort() < len(loss) - arguments.without_highest)
    if arguments.by is None:
        groups = {"": table}
    elif arguments.by not in table:
        raise UserError(f"no column {arguments.by!r} to fit by; there are {', '.join(table)}")
    else:
        groups = {str(value): take(table, table[arguments.by] == value) for value in dict.fromkeys(table[arguments.by].tolist())}
    parts = {name: _hold_out(rows, arguments) for name, rows in groups.items()}
    rivals = _rivals(arguments)
    if len(rivals) > 1:
        return _compare(rivals, parts, arguments, output)
    ((form, knobs),) = rivals.values()
    fits = {name: _fit(arguments, form, knobs, rows) for name, (rows, _) in parts.items()}
    answers = {name: _answer(fits[name], rest) for name, (_, rest) in parts.items()}
    for name in fits:
        _tell_held(fits[name], answers[name]["held_out"], output)
    _save(fits, arguments, output)
    for name, one in fits.items():
        show(name, one, answers[name]["frontier"], output)
    _report(fits, parts, arguments, output)
    output.result(answers[""] if arguments.by is None else {"by": arguments.by, "fits": answers})
    return 0


def _rivals(arguments: argparse.Namespace) -> dict[str, tuple[str, dict[str, Any]]]:
    """Form and knobs by the law's word, LAW or LAW:KNOB=VALUE; --knob goes to all."""
    common = pairs(arguments.knob, "--knob")
    found = {}
    for word in list(filter(None, arguments.law.split(","))) or [arguments.law]:
        form, *own = word.split(":")
        found[word] = form, {name: _value(value) for name, value in (common | pairs(own, "LAW:KNOB=VALUE")).items()}
    return found


def _compare(rivals: dict[str, tuple[str, dict[str, Any]]], parts: dict[str, Any], arguments: argparse.Namespace, output: Output) -> int:
    """Every law on every group; the best of each by what its held-out predictions erred."""
    from ..core.errors import UserError
    from ..scaling import compare, summary

    if arguments.no_backtest:
        raise UserError("several laws are compared by their held-out errors: --no-backtest leaves none")
    tried = {
        name: {word: _fit(arguments, form, knobs, rows) for word, (form, knobs) in rivals.items()} for name, (rows, _) in parts.items()
    }
    ranks = {name: compare(fits) for name, fits in tried.items()}
    best = {name: tried[name][rank[0]["law"]] for name, rank in ranks.items()}
    whole = summary(ranks)
    for name, rank in ranks.items():
        output.print(f"{name}:" if name else f"{best[name].error['n']} points:")
        output.table(
            ("law", "held-out error", "error on the fitted", "coefficients", "AICc"),
            [(row["law"], _share(row["held_out"]), _share(row["mean"]), row["coefficients"], f"+{row['aicc']:.1f}") for row in rank],
        )
        output.print("")
    answers = {
        name: {"best": rank[0]["law"], "laws": rank, "fits": {word: _answer(one, parts[name][1]) for word, one in tried[name].items()}}
        for name, rank in ranks.items()
    }
    _save(best, arguments, output)
    _report(best, parts, arguments, output)
    for name, answer in answers.items() if arguments.hold_out else ():
        output.print(f"{name + ': ' if name else ''}{answer['best']}")
        _tell_held(best[name], answer["fits"][answer["best"]]["held_out"], output)
    if arguments.by is not None:
        output.table(
            ("law", "mean held-out error", f"best for so many of {len(ranks)}"),
            [(row["law"], _share(row["held_out"]), row["best"]) for row in whole],
        )
    output.print(
        f"best: {whole[0]['law']}"
        if arguments.by is None
        else f"best over all: {whole[0]['law']}; what --save keeps is each {arguments.by}'s own best"
    )
    output.result(answers[""] if arguments.by is None else {"by": arguments.by, "best": whole[0]["law"], "laws": whole, "groups": answers})
    return 0


def _share(error: float | None) -> str:
    return "none" if error is None else f"{error:.2%}"


def _report(fits: dict[str, Any], parts: dict[str, Any], arguments: argparse.Namespace, output: Output) -> None:
    """The page, where it is asked for."""
    if arguments.report:
        from ..race.fit_page import write_fit_page

        held = {name: rest for name, (_, rest) in parts.items() if rest is not None}
        write_fit_page(fits, arguments.report, title=arguments.report.stem, held=held)
        output.note(f"written: {arguments.report}")


def _read(arguments: argparse.Namespace) -> Any:
    """The measurements: a csv file, or the finished runs of folders, as whole curves where the law is about those."""
    from ..core.parts import parts_in
    from ..scaling import runs
    from ..scaling.table import read

    first = arguments.points[0]
    if len(arguments.points) == 1 and not first.is_dir() and first.suffix != ".jsonl":
        return read(first)
    known = parts_in("scaling.form")
    forms = [known[form].load() for form, _ in _rivals(arguments).values() if form in known]
    return runs.table(arguments.points, curves=any(getattr(form, "curve", False) for form in forms))


def _hold_out(table: Any, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Rows to fit, and those to predict (None without --hold-out)."""
    import numpy as np

    from ..core.errors import UserError
    from ..scaling.table import size, take, where

    if not arguments.hold_out:
        return table, None
    number = np.arange(size(table))
    out = np.isin(number, where(table | {"number of the row": number}, arguments.hold_out)["number of the row"])
    if out.all():
        raise UserError(f"--hold-out {' '.join(arguments.hold_out)} leaves nothing to fit")
    return take(table, ~out), take(table, out)


def _tell_held(one: Any, found: list[dict[str, Any]], output: Output) -> None:
    """What the fit says of the rows held out."""
    if one.law.curve:
        output.print(
            *(
                f"held out{' ' * bool(row['run'])}{row['run']}: {row['n']} points, mean error {row['mean']:.2%}, worst {row['worst']:.2%}"
                + (f", R2 {row['r2']:.4f}" if row["r2"] is not None else "")
                for row in found
            )
        )
        return
    for row in found[:12]:
        only = next(iter(row["at"].values()))
        where = f" at {only:.4g}" if len(row["at"]) == 1 else f" at {row['x']:.3g}" if row["x"] else ""
        what, number = (f"best {row['of']} ", ".4g") if "of" in row else ("", ".4f")
        said, low, high, seen = (format(row[key], number) for key in ("predicted", "low", "high", "seen"))
        output.print(f"held out{where}: {what}predicted {said} ({low} to {high}), measured {seen}, {row['error']:+.2%}")


def _check(arguments: argparse.Namespace) -> None:
    from ..core.errors import UserError

    if not 0 < arguments.level < 1:
        raise UserError(f"--level wants a number between 0 and 1, got {arguments.level:g}")
    if arguments.draws < 0 or arguments.without_highest < 0:
        raise UserError("--draws and --without-highest want numbers of at least 0")
    if arguments.interval == "bootstrap" and not arguments.draws:
        raise UserError("--interval bootstrap wants --draws of at least 1")
    if arguments.delta is not None and not arguments.delta > 0:
        raise UserError(f"--delta wants a number above 0, got {arguments.delta:g}")
    for flag, path in (("--save", arguments.save), ("--report", arguments.report)):
        if path is not None:
            _place(flag, path)


def _place(flag: str, path: Path) -> None:
    """Make the folder of a file that is written at the end. Raises UserError before anything is fitted."""
    from ..core.errors import UserError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag}: cannot make {path.parent}: {error.strerror or error}") from None
    if path.is_dir():
        raise UserError(f"{flag} wants a file, {path} is a folder")


def pairs(words: list[str], flag: str) -> dict[str, str]:
    """NAME=VALUE words, several in one with commas."""
    from ..core.errors import UserError

    found = {}
    for word in (piece for text in words for piece in text.split(",") if piece):
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise UserError(f"{flag} wants NAME=VALUE, got {word!r}")
        found[name.strip()] = value.strip()
    return found


def number(text: str, flag: str) -> float:
    """A number from the command line."""
    from ..core.errors import UserError

    try:
        return float(text)
    except ValueError:
        raise UserError(f"{flag} wants a number, got {text!r}") from None


def _fit(arguments: argparse.Namespace, form: str, knobs: dict[str, Any], table: Any) -> Any:
    from ..scaling import fit

    prior = {}
    for name, value in pairs(arguments.prior, "--prior").items():
        middle, _, deviation = value.partition(":")
        prior[name] = (number(middle, "--prior"), number(deviation or "?", "--prior NAME=VALUE:DEVIATION"))
    return fit(
        form,
        table,
        knobs=knobs,
        fixed={name: number(value, "--fixed") for name, value in pairs(arguments.fixed, "--fixed").items()},
        prior=prior,
        delta=arguments.delta,
        level=arguments.level,
        interval=arguments.interval,
        draws=arguments.draws,
        backtest=not arguments.no_backtest,
        seed=arguments.seed,
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _answer(one: Any, rest: Any) -> dict[str, Any]:
    """Everything about a fit, and what it says of the rows held out (None: there are none)."""
    from ..scaling.frontier import frontiers
    from ..scaling.held import held_curves, held_rows

    held = [] if rest is None else held_curves(one, rest) if one.law.curve else held_rows(one, rest)
    return one.as_dict() | {"frontier": frontiers(one), "held_out": held}


def show(name: str, one: Any, frontier: dict[str, Any], output: Output) -> None:
    """The fit as people read it."""
    head = f"{one.form}{f' ({name})' if name else ''}: {one.error['n']} points, mean error {one.error['mean']:.2%}, worst {one.error['worst']:.2%}, R2 {one.error['r2']:.4f}"
    output.print(head, "")
    output.table(
        ("coefficient", "estimate", f"{one.level:.0%} interval", ""),
        [(key, f"{value:.5g}", *_ends(one, key)) for key, value in one.estimates.items()],
    )
    for key, value in frontier.items():
        output.print(
            f"N_opt ~ C^{value['exponent']:.3f} by {key}"
            + (f" ({value['interval'][0]:.3f} to {value['interval'][1]:.3f})" if "interval" in value else "")
        )
    if one.backtest:
        output.print("", "held-out predictions, by how far they reached beyond their data:")
        output.table(
            ("reach", "n", "mean error", "worst", "bias"),
            [
                (
                    f"{part.get('of', '')} {part['from']:g} to {part['to']:.3g}".strip(),
                    part["n"],
                    f"{part['mean']:.2%}",
                    f"{part['worst']:.2%}",
                    f"{part['bias']:+.2%}",
                )
                for part in one.backtest
            ],
        )
    output.print(*(f"doubt: {doubt}" for doubt in one.doubts), "")


def _ends(one: Any, key: str) -> tuple[str, str]:
    if key in one.fixed:
        return "fixed", ""
    return tuple(f"{end:.5g}" for end in one.intervals[key]) if key in one.intervals else ("", "")  # type: ignore[return-value]


def _save(fits: dict[str, Any], arguments: argparse.Namespace, output: Output) -> None:
    """The fit, or that of every group, for 'ingot predict'."""
    if arguments.save is None:
        return
    if arguments.by is None:
        fits[""].save(arguments.save)
    else:
        whole = {name: one.as_json() for name, one in fits.items()}
        arguments.save.write_text(json.dumps({"kind": "ingot scaling fits", "by": arguments.by, "fits": whole}), encoding="utf-8")
    output.note(f"saved: {arguments.save}")
