"""The race file: a baseline, contenders, one budget, seeds, a tuning allowance. Read with the same care as a recipe.

baseline: {recipe: base.yaml}
contenders:
  muon: {set: {stages: {0: {optimizer: {name: muon, lr: 0.02}}}}}
  theirs: {command: python their_train.py}
budget: 8M tokens
seeds: 5
tuning: {trials: 4}
"""

from __future__ import annotations

import copy
import hashlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.errors import Problem, UserError, shown
from ..core.parts import Fraction, NonNegative, Positive, section
from ..core.quantities import Budget, Bytes, Quantity
from ..core.recipe import Recipe, digest, load, merge_keys
from ..core.resolve import resolve
from .metric import raced

UNITS = ("tokens", "flops", "seconds", "rows")


@section
@dataclass(kw_only=True)
class Arm:
    """recipe: a file beside the race file; a contender's is the baseline's when not given. set: changes to it, as a child recipe
    writes them. command: a program that speaks the protocol instead. shares: of the budget, for the stages; when not given, the
    stages keep the proportions of their own budgets. about: a few words for the page."""

    recipe: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    shares: list[Fraction] = field(default_factory=list)
    about: str = ""


@section
@dataclass(kw_only=True)
class Tuning:
    """The same allowance for every arm: so many trials of a multiplier on its knobs, on a seed that is not raced.

    trials: 1 is none; 4 let the search take a step beyond a first neighbor that is better. step: ratio of neighbors on the grid of
    multipliers. knobs: recipe paths of what is multiplied; every learning rate when not given. budget: a trial's share of the race's
    budget. search: ``grid`` starts from the recipe's own values, walks towards the better side, and halves its steps once it stands between
    two worse neighbors; ``optuna`` asks its sampler.
    """

    trials: Positive[int] = 4
    step: Positive[float] = 2.0
    knobs: list[str] = field(default_factory=list)
    budget: Fraction = 1.0
    search: Literal["grid", "optuna"] = "grid"


@section
@dataclass(kw_only=True)
class ClaimPart:
    """One thing that a paper says. what: loss, or a cost (to reach the baseline's loss, or of the arm). by: how much at least, as a
    share; for ``equal``, how far apart at most."""

    what: Literal[
        "loss", "flops to target", "tokens to target", "reference seconds to target", "optimizer state", "peak memory", "wall-clock"
    ]
    wants: Literal["lower", "equal", "higher"]
    by: Fraction = 0.0


@section
@dataclass(kw_only=True)
class Claim:
    """What the paper says of its method, split into parts that a race can see; `contender` is the method's arm."""

    method: str
    contender: str
    paper: str
    says: str
    parts: list[ClaimPart]


@section
@dataclass(kw_only=True)
class RaceSection:
    """A race.

    set: changes to the recipe of every arm (the baseline's and the contenders'). budget: tokens, FLOPs, seconds or rows, all spent
    by every arm. memory: a cap on the peak that micro-batches are fitted to; an arm that goes over it is out. seeds: pairs, or
    ``auto``: a pilot, then as many as it shows are needed to resolve `resolution`, at most 12. looks: how often you mean to look at it,
    with more seeds each time; they share the error allowed evenly, and what is looked at beyond them is judged far more strictly. metric:
    of the evaluation; ``auto`` is bits per byte where the baseline has them, else loss; a share that is better higher, such as
    knn.accuracy, is raced as its error, and so is its target. margin: effects smaller than this are no difference. target:
    metric for time and cost to target; the value that every baseline run reaches when not given. evaluations: in a run.
    parallel: trials at once.
    """

    name: str
    question: str = ""
    baseline: Arm
    contenders: dict[str, Arm]
    set: dict[str, Any] = field(default_factory=dict)
    budget: Budget
    memory: Bytes | None = None
    seeds: Positive[int] | Literal["auto"] = 5
    looks: Positive[int] = 1
    first_seed: NonNegative[int] = 0
    pilot: Positive[int] = 3
    resolution: Fraction = 0.01
    tuning: Tuning = field(default_factory=dict)  # type: ignore[assignment]
    metric: str = "auto"
    margin: Fraction = 0.005
    control: bool = True
    early_stopping: bool = False
    target: Positive[float] | None = None
    evaluations: Positive[int] = 20
    parallel: Positive[int] | Literal["auto"] = "auto"
    claim: Claim | None = None


WRITTEN = (".py", ".sh", ".yaml", ".yml", ".json", ".toml")  # by hand; other files of a command, such as a log, it may write itself
BASELINE, CONTROL = "baseline", "control"


@dataclass
class Entrant:
    """An arm ready to run: its recipe as a plain tree (of the baseline, for a command) and what the race file says of it. files: of a
    command's words those that are files written by hand, with a hash of what they hold."""

    name: str
    arm: Arm
    tree: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)


@dataclass
class Race:
    """The race file read, and every arm's recipe tree. tiny: the tiny twins run."""

    section: RaceSection
    entrants: dict[str, Entrant]
    tree: dict[str, Any]
    tiny: bool = False
    path: Path | None = None

    @property
    def name(self) -> str:
        return self.section.name

    @property
    def contenders(self) -> list[str]:
        """The names of all arms but the baseline, in the file's order; the control is not one."""
        return [name for name in self.entrants if name != BASELINE]

    @property
    def identity(self) -> str:
        """Hash of everything that decides the race: arms with their recipes, budget, seeds, tuning."""
        return digest(
            {
                "race": {key: value for key, value in self.tree.items() if key not in ("parallel", "question", "claim")},
                "arms": {name: one.tree | ({"files": one.files} if one.files else {}) for name, one in self.entrants.items()},
            }
        )


def read_race(path: str | Path, overrides: list[str] | tuple[str, ...] = (), *, tiny: bool = False) -> Race:
    """Read a race file, its parents and recipes, its ``tiny`` overlay and ``key=value`` overrides. Raises UserError with every problem."""
    path = Path(path)
    recipe = load(path, overrides, tiny=tiny)
    section: RaceSection = resolve(recipe, RaceSection)
    problems = list(_wrong(recipe, section))
    entrants: dict[str, Entrant] = {}
    if not problems:
        base = _tree(section.baseline, path.parent, tiny, section.set)
        entrants[BASELINE] = Entrant(BASELINE, section.baseline, base)
        for name, arm in section.contenders.items():
            own = _tree(arm, path.parent, tiny, section.set) if arm.recipe else merge_keys(copy.deepcopy(base), arm.set)
            entrants[name] = Entrant(name, arm, own, _files(arm.command or ""))
    if problems:
        raise UserError(problems)
    section.metric = raced(section.metric)
    return Race(section, entrants, recipe.tree, tiny, path)


def _tree(arm: Arm, folder: Path, tiny: bool, common: dict[str, Any]) -> dict[str, Any]:
    """The arm's recipe with the race's changes, then its own."""
    recipe = load(folder / str(arm.recipe), tiny=tiny)
    return merge_keys(merge_keys(recipe.tree, copy.deepcopy(common)), copy.deepcopy(arm.set))


def _files(command: str) -> dict[str, str]:
    """Of a command's words those that are files written by hand, such as its script, with a hash of what each holds."""
    found = {}
    for word in shlex.split(command):
        if word.endswith(WRITTEN) and os.path.isfile(word) and os.access(word, os.R_OK):
            with open(word, "rb") as file:
                found[word] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _wrong(recipe: Recipe, race: RaceSection) -> Iterator[Problem]:
    def problem(where: str, message: str) -> Problem:
        keys = tuple(where.split("."))
        return Problem(where, message, recipe.origin(keys))

    if race.baseline.recipe is None or race.baseline.command is not None:
        yield problem("baseline", "wants a recipe: the other arms are given its data order and its evaluation")
    if not race.contenders:
        yield problem("contenders", "wants at least one")
    for name, arm in race.contenders.items():
        if name in (BASELINE, CONTROL) or not name.replace("_", "").replace("-", "").isalnum():
            yield problem(f"contenders.{name}", f"names an arm, and cannot be {shown(name)}")
        if arm.command is not None and (arm.recipe or arm.set):
            yield problem(f"contenders.{name}", "has a command, so it takes no recipe and no set")
        try:
            shlex.split(arm.command or "")
        except ValueError as error:
            yield problem(f"contenders.{name}.command", f"cannot be split into words: {error}")
        if arm.command is None and not (arm.recipe or arm.set or arm.shares):
            yield problem(f"contenders.{name}", "is the baseline itself: give it a recipe, changes (set) or a command")
    if race.budget.unit not in UNITS:
        yield problem("budget", f"wants tokens, FLOPs, seconds or rows, which compare methods; {race.budget.unit} do not")
    if race.budget.value <= 0:
        yield problem("budget", "wants a budget above 0")
    if race.seeds == "auto" and race.pilot < 3:
        yield problem("pilot", "wants at least 3 seeds, or the noise is not known at all")
    if race.tuning.trials > 1 and (race.tuning.step <= 1 or race.tuning.budget <= 0):
        yield problem("tuning", "wants a step above 1 and a share of the budget above 0")
    if race.tuning.search == "optuna" and race.tuning.trials == 1:
        yield problem("tuning.trials", "wants more than 1 for a search")
    try:
        raced(race.metric)
    except ValueError as error:
        yield problem("metric", str(error))
    if race.claim is not None and race.claim.contender not in race.contenders:
        yield problem("claim.contender", f"no contender is named {shown(race.claim.contender)}; there are {', '.join(race.contenders)}")


def tuned_knobs(tree: dict[str, Any], knobs: list[str]) -> list[tuple[str | int, ...]]:
    """The paths in a recipe tree that a multiplier acts on: those named, or every number called lr inside the stages."""
    if knobs:
        return [tuple(int(word) if word.isdigit() else word for word in path.split(".")) for path in knobs]
    return [
        ("stages", *keys)
        for keys, value in _leaves(tree.get("stages", []))
        if keys[-1] == "lr" and isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _leaves(value: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*keys, key))
    elif keys:
        yield keys, value


def part_of(budget: Quantity, share: float) -> Quantity:
    """A share of a budget; whole tokens and rows stay whole."""
    value = budget.value * share
    return Quantity(float(round(value)) if budget.unit in ("tokens", "rows") else value, budget.unit)
