"""A ladder: small runs of one recipe at growing sizes, fitted, with the largest held out to see what the fit is worth.

    recipe: base/text.yaml
    sizes: {model.width: [24, 32, 48, 64], model.encoder.mixer.heads: [3, 4, 6, 8]}
    base_width: 32
    tokens_per_parameter: 10

Settings are tuned once, at `base_width`, and carried to every width by the maximal update parametrization. Rungs run as the trials of a
race do: in parallel, each once, and after a kill the same command goes on. Written: points.csv (a row a run), fit.json, ladder.json.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..build.check import check, resolve_run
from ..build.run import Run
from ..core.amounts import count, duration
from ..core.atomic import whole_file
from ..core.errors import Problem, RunError, UserError
from ..core.limits import cores
from ..core.parts import Fraction, NonNegative, Positive, section
from ..core.quantities import parse_quantity
from ..core.recipe import Recipe, digest, load, merge_keys
from ..core.resolve import resolve
from .pool import Pool, Processes
from .running import Say, run_waiting, survey_error
from .trials import Store, Trial, make_trial, read_json, write_whole

if TYPE_CHECKING:
    from ..scaling import Fit

NOWHERE = Path("nowhere")
COLUMNS = ("params", "params_non_embedding", "tokens", "flop", "steps", "loss")  # what a law may be fitted to


@section
@dataclass(kw_only=True)
class LadderSection:
    """A ladder.

    recipe: a file beside the ladder's; set: changes to it. sizes: recipe path -> its value at every rung, lists of one length (a single
    value holds for all). base_width: where the recipe was tuned; null leaves the recipe's initialization. tokens_per_parameter: of every
    run; with several, each rung is run with each. per: which parameters count there. seeds: runs of each. law: ``auto`` is a power law in
    FLOPs for one ratio of tokens, Chinchilla's for several. held_out: how many of the largest rungs are only predicted. level: of
    intervals.
    """

    name: str
    recipe: str
    set: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, Any]
    base_width: Positive[int] | None = None
    tokens_per_parameter: Positive[float] | list[Positive[float]] = 20.0
    per: Literal["non_embedding", "all"] = "non_embedding"
    seeds: Positive[int] = 1
    first_seed: NonNegative[int] = 0
    law: str = "auto"
    held_out: NonNegative[int] = 1
    level: Fraction = 0.9
    metric: str = "loss"
    evaluations: Positive[int] = 10
    parallel: Positive[int] | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Rung:
    """One run of the ladder. sizes: what was set, by recipe path. tokens: what it is to spend."""

    index: int
    sizes: dict[str, Any]
    ratio: float
    params: int
    params_non_embedding: int
    tokens: float
    tree: dict[str, Any]

    @property
    def label(self) -> str:
        sizes = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in self.sizes.items())
        return f"{sizes}, {count(self.tokens)} tokens"


@dataclass
class Ladder:
    """The ladder file read: a rung for each size and ratio, the smallest compute first."""

    section: LadderSection
    rungs: list[Rung]

    @property
    def name(self) -> str:
        return self.section.name

    @property
    def held(self) -> set[int]:
        """Rungs of the largest sizes, which the fit does not see."""
        sizes = list(dict.fromkeys(rung.params_non_embedding for rung in sorted(self.rungs, key=lambda rung: rung.params_non_embedding)))
        largest = set(sizes[len(sizes) - self.section.held_out :])
        return {rung.index for rung in self.rungs if rung.params_non_embedding in largest}


def read_ladder(path: str | Path, overrides: list[str] | tuple[str, ...] = (), *, tiny: bool = False) -> Ladder:
    """Read a ladder file, its recipe, its ``tiny`` overlay and ``key=value`` overrides; checks every rung's recipe. Raises UserError."""
    path = Path(path)
    recipe = load(path, overrides, tiny=tiny)
    given: LadderSection = resolve(recipe, LadderSection)
    rungs = _lengths(given, recipe)
    _law_fits(given, len(next(iter(rungs.values()))), recipe)
    base = merge_keys(load(path.parent / given.recipe, tiny=tiny).tree, copy.deepcopy(given.set))
    trees = [
        _sized(base, {name: values[index] for name, values in rungs.items()}, given) for index in range(len(next(iter(rungs.values()))))
    ]
    problems = [
        Problem(f"rung {index}: {one.where}", one.message, one.origin, one.hint)
        for index, tree in enumerate(trees)
        for one in check(Recipe(tree), Path.cwd())[1]
    ]
    if problems:
        raise UserError(problems)
    found = []
    for index, tree in enumerate(trees):
        params, inner = parameters(tree)
        for ratio in given.tokens_per_parameter if isinstance(given.tokens_per_parameter, list) else [given.tokens_per_parameter]:
            spend = ratio * (inner if given.per == "non_embedding" else params)
            tree, spend = _spending(tree, spend)
            found.append(
                (params * spend, {name: values[index] for name, values in rungs.items()}, float(ratio), params, inner, spend, tree)
            )
    found.sort(key=lambda one: one[0])
    return Ladder(given, [Rung(index, *one[1:]) for index, one in enumerate(found)])


def _lengths(given: LadderSection, recipe: Recipe) -> dict[str, list[Any]]:
    """Values by path, one a rung. Raises UserError."""
    lists = {path: value for path, value in given.sizes.items() if isinstance(value, list)}
    if len({len(value) for value in lists.values()}) != 1:
        raise UserError(
            [
                Problem(
                    "sizes",
                    f"wants lists of one length; there are {', '.join(f'{path} of {len(value)}' for path, value in lists.items()) or 'none'}",
                    recipe.origin(("sizes",)),
                )
            ]
        )
    rungs = len(next(iter(lists.values())))
    return {path: value if isinstance(value, list) else [value] * rungs for path, value in given.sizes.items()}


def _law_fits(given: LadderSection, rungs: int, recipe: Recipe) -> None:
    """Raise UserError where the law cannot be, or the runs are too few for it: before anything is trained, not after."""
    from ..scaling.fit import law_for

    name, knobs = law_of(given)
    try:
        law = law_for(name, _columns([dict.fromkeys(COLUMNS, 1.0)]), knobs)
    except UserError as error:
        raise UserError([Problem("law", str(error), recipe.origin(("law",)))]) from None
    ratios = len(given.tokens_per_parameter) if isinstance(given.tokens_per_parameter, list) else 1
    points, least = (rungs - given.held_out) * ratios * given.seeds, len(law.coefficients) + 1
    if points < least or given.held_out >= rungs:
        message = f"leaves {max(points, 0)} points to fit, at least {least} are needed for {name}: more sizes, or seeds"
        raise UserError([Problem("sizes", message, recipe.origin(("sizes",)))])


def _nested(path: str, value: Any) -> dict[Any, Any]:
    for word in reversed(path.split(".")):
        value = {int(word) if word.isdigit() else word: value}
    found: dict[Any, Any] = value
    return found


def _own_width_rule(tree: dict[str, Any]) -> bool:
    """Whether an optimizer's updates of matrices carry a width rule of their own; what is wrong with a recipe is told where it is checked."""
    try:
        optimizers = [spec for stage in resolve_run(Recipe(copy.deepcopy(tree))).stages for _, spec in stage.optimizer.walk()]
    except UserError:
        return False
    return any(getattr(spec.target, "width_rule", "") == "spectral" for spec in optimizers)


def _sized(base: dict[str, Any], sizes: dict[str, Any], given: LadderSection) -> dict[str, Any]:
    """The recipe at one size, with the settings carried over and the evaluation that all rungs share."""
    tree = copy.deepcopy(base)
    for path, value in sizes.items():
        tree = merge_keys(tree, _nested(path, value))
    if given.base_width is not None:
        init = {"name": "mup", "base_width": given.base_width} | ({"scale_matrices": False} if _own_width_rule(tree) else {})
        tree = merge_keys(tree, {"model": {"init": init}})
    tree["evaluate"] = {key: value for key, value in tree.get("evaluate", {}).items() if key not in ("prompts", "prompt_tokens")} | {
        "every": f"{100 / given.evaluations:.6g}%"
    }
    return tree | {
        "name": "run",
        "seed": given.first_seed,
        "checkpoint": {"every": "25%", "keep_last": 1, "keep_best": 0},
        "log": {"tensorboard": False},
    }


def _spending(tree: dict[str, Any], tokens: float) -> tuple[dict[str, Any], float]:
    """The recipe with a budget of about so many tokens, in whole steps. Raises UserError for several stages."""
    tree = copy.deepcopy(tree)
    if len(tree["stages"]) != 1:
        raise UserError([Problem("recipe", "has several stages; a ladder grows recipes of one")])
    batch = parse_quantity(tree["stages"][0]["batch"])
    step = batch.value * (tree["data"].get("sequence", 512) if batch.unit == "rows" else 1)
    tokens = max(1, round(tokens / step)) * step
    tree["stages"][0]["budget"] = f"{tokens:.0f} tokens"
    return tree, tokens


def parameters(tree: dict[str, Any]) -> tuple[int, int]:
    """Of the recipe's model: all parameters that compute a position, on average (not all of them where a router chooses), and those of them
    that are no embedding (nothing with a vocabulary axis, no positions)."""
    import torch

    from ..build.plan import meta_model
    from ..core.axes import axes_of

    model = meta_model(Run(resolve_run(Recipe(copy.deepcopy(tree))), NOWHERE), 0, torch.float32)
    axes, total, inner = axes_of(model), 0.0, 0.0
    for name, weight in model.named_parameters():
        active = weight.numel() * float(getattr(model.get_submodule(name.rpartition(".")[0]), "active_share", 1.0))
        total += active
        if not name.startswith(("embedding.", "target_embedding.")) and "vocabulary" not in axes[name].names:
            inner += active
    return round(total), round(inner)


def trials(ladder: Ladder, identity: Any) -> list[tuple[Rung, Trial]]:
    """Every run, the dearest first, so that the last one does not run alone."""
    found = []
    for rung in reversed(ladder.rungs):
        for seed in range(ladder.section.first_seed, ladder.section.first_seed + ladder.section.seeds):
            tree = rung.tree | {"seed": seed}
            what = {"recipe": tree, "shared": tree, "metric": ladder.section.metric, "identity": identity}
            found.append((rung, make_trial(rung.label, "ladder", seed, 1.0, what)))
    return found


def climb(
    ladder: Ladder, *, folder: str | Path = "runs/ladders", jobs: int | None = None, pool: Pool | None = None, say: Say = print
) -> dict[str, Any]:
    """Run what is left of the ladder, fit, and predict what was held out. Returns plain data. Raises UserError and RunError."""
    from .. import scaling  # noqa: F401 - scipy is wanted at the end: better to know now

    folder = Path(folder)
    place, store = folder / ladder.name, Store(folder)
    place.mkdir(parents=True, exist_ok=True)
    wanted = ladder.section.parallel
    own, pool = pool is None, pool or Processes(jobs or (wanted if isinstance(wanted, int) else cores()))
    began = time.monotonic()
    try:
        every = trials(ladder, _identity(ladder, folder, pool))
        _run(every, store, pool, ladder.section.metric, say)
    finally:
        if own:
            pool.close()
    rows = [_point(rung, trial, store.result(trial) or {}, rung.index in ladder.held) for rung, trial in reversed(every)]
    write_points(rows, place / "points.csv")
    try:
        answer = fitted(ladder, rows, place)
    except UserError as error:
        raise RunError(f"every run is there, in {place / 'points.csv'}, but the law does not fit: {error}") from error
    answer |= {
        "rows": rows,
        "seconds": time.monotonic() - began,
        "training_seconds": sum(row["seconds"] for row in rows),
        "jobs": pool.size,
        "folder": str(place),
    }
    write_whole(place / "ladder.json", answer)
    return answer


def _identity(ladder: Ladder, folder: Path, pool: Pool) -> Any:
    """Prepare the data, in a worker, and say what decides its rows."""
    place = (folder / "surveys" / digest({"ladder": ladder.rungs[0].tree})[:20]).resolve()
    place.mkdir(parents=True, exist_ok=True)
    (place / "survey.json").unlink(missing_ok=True)
    tree = ladder.rungs[0].tree
    write_whole(place / "trial.json", {"kind": "survey", "arm": "ladder", "what": {"recipe": tree, "shared": tree}, "cwd": os.getcwd()})
    pool.start(place)
    while True:
        for ended, status in pool.wait():
            if ended == place:
                if status:
                    raise survey_error(place, status)
                return (read_json(place / "survey.json") or {}).get("identities")


def _run(every: list[tuple[Rung, Trial]], store: Store, pool: Pool, metric: str, say: Say) -> None:
    """Run all that have no result."""
    rungs = [trial for _, trial in every]

    def waiting() -> list[Trial]:
        return [trial for trial in rungs if store.result(trial) is None]

    before = len(rungs) - len(waiting())
    ended = run_waiting(waiting, lambda trial: store.write(trial, {"cwd": os.getcwd(), "metric": metric}).resolve(), store, pool, say)
    for done, (trial, result) in enumerate(ended, before + 1):
        outcome = f"{metric} {result['final']:.4f}" if result["status"] == "done" else f"failed: {result['reason']}"
        say(f"{done}/{len(every)}  {trial.label}: {outcome}, {duration(result['spent']['seconds'])}")


def _point(rung: Rung, trial: Trial, result: dict[str, Any], held: bool) -> dict[str, Any]:
    """A row of points.csv. Raises RunError for a run that failed: the ladder would miss a rung in silence."""
    if result.get("status") != "done" or result.get("final") is None:
        raise RunError(f"{rung.label}: {result.get('reason') or 'has no evaluation'}")
    spent = result["spent"]
    return {
        **{path.rpartition(".")[2]: value for path, value in rung.sizes.items()},
        "seed": trial.seed,
        "params": rung.params,
        "params_non_embedding": rung.params_non_embedding,
        "tokens": spent["tokens"],
        "flop": spent["flops"],
        "steps": spent["step"],
        "seconds": spent["seconds"],
        "loss": result["final"],
        "held_out": int(held),
        "trial": trial.key,
    }


def write_points(rows: list[dict[str, Any]], path: Path) -> None:
    """The rows as csv, in place at once."""
    with whole_file(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def law_of(given: LadderSection) -> tuple[str, dict[str, Any]]:
    """Name and knobs of the law to fit."""
    several = isinstance(given.tokens_per_parameter, list) and len(given.tokens_per_parameter) > 1
    if given.law == "auto":
        return ("chinchilla", {}) if several else ("power", {"over": "flop"})
    return given.law, {"over": "flop"} if given.law == "power" else {}


def fitted(ladder: Ladder, rows: list[dict[str, Any]], place: Path) -> dict[str, Any]:
    """Fit to the smaller rungs, predict the held-out ones, then fit to all for what comes: fit.json, with the reach that was tested."""
    from ..scaling import fit, predict

    name, knobs = law_of(ladder.section)
    level, held = ladder.section.level, [row for row in rows if row["held_out"]]
    smaller = fit(name, _columns([row for row in rows if not row["held_out"]]), knobs=knobs, level=level)
    predictions = []
    for row in held:
        inputs = {column: float(row[column]) for column in smaller.law.inputs}
        found = predict(smaller, level=level, untested=True, **inputs)  # the measured loss stands beside it
        predictions.append(
            {
                "params": row["params"],
                "tokens": row["tokens"],
                "flop": row["flop"],
                "seed": row["seed"],
                "predicted": found.value,
                "low": found.low,
                "high": found.high,
                "loss": row["loss"],
                "error": found.value / row["loss"] - 1,
                "inside": found.low <= row["loss"] <= found.high,
                "reach": found.reach,
                "past": found.past["note"],
            }
        )
    whole: Fit = fit(name, _columns(rows), knobs=knobs, level=level)
    whole.save(place / "fit.json")
    smaller.save(place / "fit_without_largest.json")
    return {
        "ladder": ladder.name,
        "law": name,
        "level": level,
        "points": len(rows),
        "sizes": len({row["params_non_embedding"] for row in rows}),
        "decades": _decades(rows),
        "estimates": whole.estimates,
        "intervals": whole.intervals,
        "doubts": whole.doubts,
        "held_out": json.loads(json.dumps(predictions, default=float)),
    }


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import numpy as np

    return {name: np.array([float(row[name]) for row in rows]) for name in COLUMNS}


def _decades(rows: list[dict[str, Any]]) -> float:
    import math

    return math.log10(max(row["flop"] for row in rows) / min(row["flop"] for row in rows))


def forecast(ladder: Ladder, *, folder: str | Path = "runs/ladders") -> Iterator[dict[str, Any]]:
    """Each rung's size, tokens and rough compute (6 N D), before anything is run."""
    for rung in ladder.rungs:
        yield {
            "sizes": rung.sizes,
            "params": rung.params,
            "params_non_embedding": rung.params_non_embedding,
            "tokens": rung.tokens,
            "flop": 6.0 * rung.params * rung.tokens,
            "runs": ladder.section.seeds,
            "held_out": rung.index in ladder.held,
        }
