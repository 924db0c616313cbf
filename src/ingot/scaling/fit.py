"""Fit a law to measurements: estimates with intervals, what past extrapolations were worth, and reasons for doubt.

result = fit("chinchilla", {"params": N, "tokens": D, "loss": L})
result.estimates["alpha"], result.intervals["alpha"], result.doubts
result.save("fit.json");  Fit.load("fit.json")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.errors import UserError
from ..core.parts import parts_in
from ..core.resolve import nearest, spec
from .backtest import backtest as run_backtest
from .doubts import of_fit, of_inputs, of_table, uneven
from .form._base import Form
from .interval import draw, noise, profile, rounding
from .solve import Problem, Solution, from_all_starts, huber, solve
from .table import Table, read, rename, size, take

SCALES = ("flop", "params", "tokens")
HUBER = 1.345
"""Threshold in robust standard deviations where a law publishes none: 95 % efficient for normal errors (Huber 1964)."""

OWN = "fitted as its paper does, which stops before the objective is lowest: no intervals"


@dataclass
class Fit:
    """A fitted law.

    estimates, intervals: by coefficient, natural units.   theta, draws: on the fitting scale, (P,) and (D, P).
    error: how well it describes the fitted rows: r2, mean and worst (relative errors; differences for linear residuals), sigma (robust, on
    the residual scale), aicc.
    backtest: what held-out predictions erred, by reach.   table: the fitted rows.   method: how each number was obtained.
    """

    form: str
    knobs: dict[str, Any]
    estimates: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    level: float
    theta: np.ndarray
    draws: np.ndarray
    error: dict[str, float]
    backtest: list[dict[str, Any]]
    doubts: list[str]
    table: Table
    fixed: dict[str, float] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)

    @property
    def law(self) -> Form:
        """The form, built for the fitted rows."""
        return build(self.form, self.table, self.knobs)

    def __call__(self, points: Mapping[str, Any]) -> np.ndarray:
        """(n,) predictions in natural units at points given by the form's input columns."""
        law = self.law
        found = law.predict(self.theta[None], law.prepare(as_table(points)))[0]
        return np.exp(found) if law.residual == "log" else found

    def sample(self, points: Mapping[str, Any]) -> np.ndarray:
        """(D, n) predictions of every bootstrap draw."""
        law = self.law
        found = law.predict(self.draws, law.prepare(as_table(points)))
        return np.exp(found) if law.residual == "log" else found

    def scale(self) -> float | None:
        """The largest scale that was fitted; None where the form has none."""
        found = self.law.scale(self.table)
        return None if found is None else float(np.max(found))

    def as_dict(self) -> dict[str, Any]:
        """Everything but table and draws, as plain data."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("table", "draws", "theta")}
        return _plain(plain)

    def save(self, path: str | Path) -> None:
        """Write one JSON file."""
        Path(path).write_text(json.dumps(self.as_json()), encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        """What save writes."""
        return {"kind": "ingot scaling fit"} | self.as_dict() | _plain({"theta": self.theta, "draws": self.draws, "table": self.table})

    @classmethod
    def load(cls, path: str | Path) -> Fit:
        """Read what save wrote. Raises UserError when it is something else."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}") from None
        return cls.from_json(data, path)

    @classmethod
    def from_json(cls, data: Any, path: str | Path = "this") -> Fit:
        """What as_json gave. Raises UserError when it is something else; path only names it there."""
        if not isinstance(data, dict) or data.get("kind") != "ingot scaling fit":
            raise UserError(f"{path} is no fit; 'ingot fit ... --save {path}' writes one")
        data = {key: value for key, value in data.items() if key != "kind"}
        data["intervals"] = {name: tuple(_number(end) for end in ends) for name, ends in data["intervals"].items()}
        data["backtest"] = [{key: value if key == "of" else _number(value) for key, value in one.items()} for one in data["backtest"]]
        data["table"] = {name: np.array(column if name == "run" else [*map(_number, column)]) for name, column in data["table"].items()}
        return cls(**data | {"theta": np.array(data["theta"]), "draws": np.array(data["draws"]).reshape(-1, len(data["theta"]))})


def build(form: str | Form, table: Mapping[str, Any], knobs: Mapping[str, Any] | None = None) -> Form:
    """A form by name. Raises UserError for an unknown one or wrong knobs."""
    if not isinstance(form, str):
        return form
    if form not in (known := parts_in("scaling.form")):
        raise UserError(f"no law named {form!r}. {nearest(form, known) or 'There are: ' + ', '.join(known)}")
    law: Form = spec("scaling.form", form, **(knobs or {})).build(table=table)
    return law


def as_table(points: Mapping[str, Any]) -> Table:
    """Numbers and arrays as columns of equal length."""
    arrays = {name: np.atleast_1d(np.asarray(value)) for name, value in points.items()}
    longest = max(map(len, arrays.values()))
    return {name: np.broadcast_to(array, (longest,)) for name, array in arrays.items()}


def fit(
    form: str,
    data: Mapping[str, Any] | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    fixed: Mapping[str, float] | None = None,
    prior: Mapping[str, tuple[float, float]] | None = None,
    delta: float | None = None,
    level: float = 0.9,
    interval: Literal["profile", "bootstrap", "none"] = "profile",
    draws: int = 400,
    backtest: bool = True,
    seed: int = 0,
) -> Fit:
    """Fit the named form.

    data:     columns by name, or a csv file.   columns: names that the form wants, from those that the data have (``{"tokens": "flop/6/params"}``).
    fixed:    coefficients that are known.   prior: coefficient -> (value, deviation), in natural units (relative deviation for positive ones).
    delta:    Huber threshold on the residual; by default the law's published one, else 1.345 robust deviations.
    interval: how intervals are found (see ``ingot.scaling.interval``).   draws: bootstrap draws kept for predictions.
    A form that is fitted as its paper does (`multi_power` with the knob ``fit: paper``) has neither intervals nor draws, and a doubt says
    so. Raises UserError for missing columns, too few rows, values that have no logarithm, and numbers that cannot be (delta, fixed, prior).
    """
    if delta is not None and not delta > 0:
        raise UserError(f"delta wants a number above 0, got {delta:g}")
    if interval == "bootstrap" and draws < 1:
        raise UserError("bootstrap intervals want at least one of the draws")
    table = rename(read(data) if isinstance(data, str | Path) else dict(as_table(data)), columns or {})
    law = law_for(form, table, knobs or {})
    table = _usable(law, table, fixed or {})
    law = build(form, table, knobs)
    if law.by_paper:
        if fixed or prior:
            raise UserError(f"fitted as its paper does, {form} takes neither fixed coefficients nor priors")
        interval, draws = "none", 0
    problem = _problem(law, table, fixed or {}, prior or {})
    problem, best = _minimize(problem, delta if delta is not None else law.delta)
    theta_P, rng = best.theta_KP[0], np.random.default_rng(seed)
    draws_KP, agreement = draw(problem, theta_P, draws, rng) if draws else (np.zeros((0, len(theta_P))), {})
    intervals = _intervals(problem, theta_P, draws_KP, level, interval)
    scale_n = law.scale(table)
    held = run_backtest(problem, scale_n, np.asarray(table["run"]) if "run" in table else None) if backtest else []
    r_n = problem.y_n - law.predict(theta_P[None], problem.x)[0]
    doubts = [
        *([OWN] if law.by_paper else ()),
        *of_table(table, law.output),
        *of_inputs(law, table, int(problem.free.sum())),
        *of_fit(law, theta_P, intervals, fixed or {}, r_n, scale_n, bool(best.converged_K[0])),
        *(uneven(law, intervals, draws_KP, level) if interval == "profile" else ()),
    ]
    return Fit(
        form=form,
        knobs=dict(knobs or {}),
        estimates=_named(law, law.natural(theta_P)),
        intervals=intervals,
        level=level,
        theta=theta_P,
        draws=draws_KP,
        error=_error(problem, theta_P, best),
        backtest=held,
        doubts=doubts,
        fixed=dict(fixed or {}),
        table={name: column for name, column in table.items() if name in (*law.inputs, law.output, "run", *SCALES, "warmup_tokens")},
        method={"delta": float(problem.delta), "interval": interval, "draws": draws, "bootstrap": agreement, "seed": seed},
    )


def law_for(form: str, table: Mapping[str, Any], knobs: Mapping[str, Any]) -> Form:
    """A form by name, for a table that has the columns it reads. Raises UserError."""
    try:
        law = build(form, table, knobs)
    except KeyError as error:
        raise UserError(f"{form} needs a column {error.args[0]!r}; there are {', '.join(table)}. Map others with columns") from None
    if missing := [name for name in (*law.inputs, law.output) if name not in table]:
        raise UserError(
            f"{form} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; there are {', '.join(table)}. Map others with columns"
        )
    return law


def _usable(law: Form, table: Table, fixed: Mapping[str, float]) -> Table:
    """Rows with finite values; for curves, rows without a loss stay out of the fit only at the end of a run.

    What a reach is measured by must be known of every row: such a column that the law does not read is left out where it has blanks.
    """
    for name in (*law.inputs, law.output):
        if np.asarray(table[name]).dtype.kind not in "fiu":
            raise UserError(f"column {name!r} holds text, not numbers")
    good = np.all([np.isfinite(np.asarray(table[name], float)) for name in (*law.inputs, law.output)], axis=0)
    table = take(table, good)
    table = take(table, law.rows(table))
    if law.residual == "log" and (np.asarray(table[law.output], float) <= 0).any():
        raise UserError(f"{law.output} must be above 0 in every row")
    free = sum(coefficient.name not in fixed for coefficient in law.coefficients)
    if size(table) < free + 1:
        raise UserError(f"{size(table)} usable rows are too few for {free} coefficients")
    blank = [name for name in SCALES if name in table and name not in law.inputs and not _positive(table[name])]
    return {name: column for name, column in table.items() if name not in blank}


def _positive(column: np.ndarray) -> bool:
    return column.dtype.kind in "fiu" and bool(np.isfinite(column).all() and (column > 0).all())


def _problem(law: Form, table: Table, fixed: Mapping[str, float], prior: Mapping[str, tuple[float, float]]) -> Problem:
    y_n = np.asarray(table[law.output], float)
    y_n = np.log(y_n) if law.residual == "log" else y_n
    with np.errstate(all="ignore"):
        x = law.prepare(table)
    free, center, width = np.ones(len(law.coefficients), bool), np.zeros(len(law.coefficients)), np.full(len(law.coefficients), np.inf)
    _finite(law, table, x)
    for name, value in fixed.items():
        index = law.index(name)
        one = law.coefficients[index]
        if not one.low <= value <= one.high or (one.log and value <= 0):
            raise UserError(
                f"{name} cannot be fixed at {value:g}: it lies {'above 0, ' * (one.log and one.low <= 0)}between {one.low:g} and {one.high:g}"
            )
        free[index], center[index] = False, one.inward(value)
    for name, (value, deviation) in prior.items():
        index = law.index(name)
        if not np.isfinite(value) or (law.coefficients[index].log and value <= 0) or not deviation > 0:
            raise UserError(f"the prior of {name} wants a value that it may have and a deviation above 0, got {value:g}:{deviation:g}")
        center[index], width[index] = law.coefficients[index].inward(value), deviation
    # Infinite widths make the prior vanish; for fixed coefficients it only carries the value.
    return Problem(law, x, y_n, np.inf, free_P=free, prior=(center, width) if len(fixed) or len(prior) else None)


def _finite(law: Form, table: Table, x: Mapping[str, Any]) -> None:
    """Raise UserError, naming the column, where the law cannot read a row: the logarithm of 0, mostly."""
    bad = np.zeros(size(table), bool)
    for column in x.values():
        if isinstance(column, np.ndarray) and column.dtype.kind == "f" and column.shape[-1:] == bad.shape:
            bad |= ~np.isfinite(column).reshape(-1, len(bad)).all(0)
    if bad.any():
        low = [name for name in law.inputs if (np.asarray(table[name], float)[bad] <= 0).any()]
        raise UserError(
            f"{' and '.join(low)} must be above 0 in every row" if low else f"{int(bad.sum())} rows hold values that this law cannot read"
        )


def _minimize(problem: Problem, delta: float | None) -> tuple[Problem, Solution]:
    """Fit; where no threshold is given, find it from the residuals of a fit that is nearly least absolute deviations."""
    first = replace(
        problem, delta=delta if delta is not None else max(1e-4 * float(np.std(problem.y_n)), 1e-9), prior=_scaled_prior(problem, None)
    )
    best, least = from_all_starts(first), rounding(problem)
    if delta is None:
        sigma = _sigma(first, best.theta_KP[0])
        first = replace(first, delta=max(HUBER * sigma, least))
        best = solve(first, best.theta_KP, steps=600, tolerance=1e-11)
        first = replace(first, delta=max(HUBER * _sigma(first, best.theta_KP[0]), least))
        best = solve(first, best.theta_KP, steps=600, tolerance=1e-11)
    if problem.prior is not None and np.isfinite(problem.prior[1]).any():
        first = replace(first, prior=_scaled_prior(problem, float(noise(first, _residual(first, best.theta_KP[0])[None])[0][0])))
        best = from_all_starts(first)
    if not np.isfinite(best.objective_K[0]):
        raise UserError("no start led to a finite objective: is the form right for these data?")
    return first, best


def _scaled_prior(problem: Problem, kappa: float | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The objective is in units of kappa, so a prior of deviation s weighs kappa / s^2. Before kappa is known, a prior is left out."""
    if problem.prior is None:
        return None
    center, width = problem.prior
    return center, np.full_like(width, np.inf) if kappa is None else width / np.sqrt(kappa)


def _residual(problem: Problem, theta_P: np.ndarray) -> np.ndarray:
    return problem.y_n - problem.form.predict(theta_P[None], problem.x)[0]


def _sigma(problem: Problem, theta_P: np.ndarray) -> float:
    """Robust deviation of the residuals, corrected for the coefficients."""
    n, P = len(problem.y_n), int(problem.free.sum())
    return float(np.median(np.abs(_residual(problem, theta_P)))) / 0.6745 * float(np.sqrt(n / max(n - P, 1)))


def _intervals(problem: Problem, theta_P: np.ndarray, draws_KP: np.ndarray, level: float, how: str) -> dict[str, tuple[float, float]]:
    law = problem.form
    if how == "none":
        return {}
    if how == "bootstrap":
        ends = np.quantile(law.natural(draws_KP), [0.5 - level / 2, 0.5 + level / 2], axis=0).T
    else:
        ends = law.natural(profile(problem, theta_P[None], level=level)[0].T).T
    return {coefficient.name: (float(low), float(high)) for coefficient, (low, high) in zip(law.coefficients, ends)}


def _error(problem: Problem, theta_P: np.ndarray, best: Solution) -> dict[str, float]:
    law, n, P = problem.form, len(problem.y_n), int(problem.free.sum()) + 1
    r_n = _residual(problem, theta_P)
    seen = np.exp(problem.y_n) if law.residual == "log" else problem.y_n
    off = seen - (np.exp(problem.y_n - r_n) if law.residual == "log" else problem.y_n - r_n)
    size_n = np.abs(off) / (np.maximum(np.abs(seen), 1e-12) if law.residual == "log" else 1.0)
    # Laplace's likelihood: least absolute deviations is what a small threshold minimizes, and outliers do not decide the comparison.
    aicc = (
        2 * n * np.log(2 * np.e * max(float(np.abs(r_n).mean()), 1e-300)) + 2 * P + (2 * P * (P + 1) / (n - P - 1) if n > P + 1 else np.inf)
    )
    return {
        "n": n,
        "r2": float(1 - (off**2).sum() / max(((seen - seen.mean()) ** 2).sum(), 1e-300)),
        "mean": float(size_n.mean()),
        "worst": float(size_n.max()),
        "sigma": _sigma(problem, theta_P),
        "objective": float(huber(r_n, problem.delta).sum()),
        "aicc": float(aicc),
    }


def _named(law: Form, values: np.ndarray) -> dict[str, float]:
    return {coefficient.name: float(value) for coefficient, value in zip(law.coefficients, values)}


def compare(fits: Mapping[str, Fit]) -> list[dict[str, Any]]:
    """Laws fitted to the same rows, best first: by held-out error where all have one, else by AICc.

    held_out: mean absolute error of the back-test; aicc: difference from the lowest. Raises UserError when the rows differ.
    """
    counts = {name: one.error["n"] for name, one in fits.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"laws can only be compared on the same rows; these have {counts}")
    lowest = min(one.error["aicc"] for one in fits.values())
    rows = [
        {
            "law": name,
            "aicc": one.error["aicc"] - lowest,
            "held_out": _held_out(one),
            "mean": one.error["mean"],
            "coefficients": len(one.theta) - len(one.fixed),
        }
        for name, one in fits.items()
    ]
    by = "held_out" if all(row["held_out"] is not None for row in rows) else "aicc"
    return sorted(rows, key=lambda row: row[by])


def summary(ranks: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Laws over several groups of rows, each ranked by `compare`: mean held-out error, and for how many groups each is best; best mean first."""
    found = []
    for law in {row["law"]: None for rank in ranks.values() for row in rank}:
        errors = [row["held_out"] for rank in ranks.values() for row in rank if row["law"] == law]
        known = None if None in errors else float(np.mean(errors))
        found.append({"law": law, "held_out": known, "best": sum(rank[0]["law"] == law for rank in ranks.values())})
    by_error = all(row["held_out"] is not None for row in found)
    return sorted(found, key=lambda row: row["held_out"] if by_error else -row["best"])


def _held_out(one: Fit) -> float | None:
    total = sum(part["n"] for part in one.backtest)
    return sum(part["n"] * part["mean"] for part in one.backtest) / total if total else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value
