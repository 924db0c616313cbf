"""From an arm to the recipe of one of its trials: budget, seed, multiplier of the tuned knobs, the evaluation that all share."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..build.check import check
from ..build.schema import RunSection
from ..core.errors import Problem, UserError
from ..core.parts import plain
from ..core.progress import Moment, Progress
from ..core.quantities import Quantity, parse_quantity
from ..core.recipe import Recipe
from .spec import BASELINE, Entrant, Race, part_of, tuned_knobs

TOLERANCE = 0.01  # by how much an arm's spent budget may differ from the stated one
# What decides where and how fast a trial runs: the baseline's for every arm.
OF_THE_MACHINE = ("precision", "compile", "device", "layout", "micro_rows", "memory")


def trial_tree(race: Race, arm: str, *, seed: int, factor: float = 1.0, share: float = 1.0) -> dict[str, Any]:
    """The recipe tree of one run of an arm."""
    section = race.section
    entrant, base = race.entrants[arm], race.entrants[BASELINE].tree
    tree = copy.deepcopy(entrant.tree)
    if not isinstance(tree.get("stages"), list) or not all(isinstance(stage, dict) for stage in tree["stages"]):
        return tree  # the check says what is wrong
    for stage, part in zip(tree["stages"], stage_shares(entrant, section.budget)):
        stage["budget"] = str(part_of(section.budget, part * share))
    if factor != 1.0:
        for keys in tuned_knobs(tree, section.tuning.knobs):
            _multiply(tree, keys, factor, arm)
    tree["evaluate"] = {key: value for key, value in base.get("evaluate", {}).items() if key not in ("prompts", "prompt_tokens")}
    tree["evaluate"]["every"] = f"{100 / section.evaluations:.6g}%"
    machine = [key for key in OF_THE_MACHINE if key not in entrant.arm.set]
    tree = {key: value for key, value in tree.items() if key not in machine} | {
        key: copy.deepcopy(base[key]) for key in machine if key in base
    }
    if section.memory is not None:
        tree |= {"memory": str(section.memory), "micro_rows": "auto"}
    return tree | {
        "name": "run",
        "seed": seed,
        "checkpoint": {"every": "25%", "keep_last": 1, "keep_best": 0},
        "log": {"tensorboard": False},
    }


def stage_shares(entrant: Entrant, budget: Quantity) -> list[float]:
    """Each stage's share of the arm's budget. Raises UserError when the file does not say."""
    stages = entrant.tree["stages"]
    if entrant.arm.shares:
        if len(entrant.arm.shares) != len(stages) or not math.isclose(sum(entrant.arm.shares), 1.0, abs_tol=1e-6):
            raise UserError(
                [Problem(f"{entrant.name}.shares", f"wants {len(stages)} shares, one a stage, with sum 1; got {entrant.arm.shares}")]
            )
        return list(entrant.arm.shares)
    if len(stages) == 1:
        return [1.0]
    try:
        own = [parse_quantity(stage.get("budget")) for stage in stages]
    except ValueError as error:
        raise UserError([Problem(f"{entrant.name}.stages", f"a budget {error}")]) from None
    total = sum(quantity.value for quantity in own)
    if len({quantity.unit for quantity in own}) > 1 or total <= 0:
        raise UserError(
            [Problem(f"{entrant.name}.shares", "the stages' budgets have different units: say the shares of the race's budget")]
        )
    return [quantity.value / total for quantity in own]


def _multiply(tree: Any, keys: tuple[str | int, ...], factor: float, arm: str) -> None:
    place = tree
    try:
        for key in keys[:-1]:
            place = place[key]
        value = place[keys[-1]]
    except (KeyError, IndexError, TypeError):
        value = None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError([Problem("tuning.knobs", f"{'.'.join(map(str, keys))} is no number in the recipe of {arm}")])
    place[keys[-1]] = float(f"{value * factor:.12g}")


def section_of(race: Race, arm: str, **trial: Any) -> RunSection:
    """The checked recipe of a trial. Raises UserError with every problem, the arm named."""
    section, problems = check(Recipe(trial_tree(race, arm, **trial)))
    if problems or section is None:
        raise UserError(
            [
                Problem(f"{arm}: {problem.where}" if problem.where else arm, problem.message, problem.origin, problem.hint)
                for problem in problems
            ]
        )
    return section


def check_arms(race: Race) -> list[str]:
    """Check every arm's recipe, all problems at once (UserError); returns notes on what makes the comparison less than equal."""
    problems: list[Problem] = []
    notes: list[str] = []
    sections: dict[str, RunSection] = {}
    for name, entrant in race.entrants.items():
        if entrant.arm.command is not None:
            continue
        try:
            sections[name] = section_of(race, name, seed=race.section.first_seed)
            if race.section.tuning.trials > 1:
                trial_tree(race, name, seed=0, factor=2.0)
                if not tuned_knobs(entrant.tree, race.section.tuning.knobs):
                    problems.append(
                        Problem(
                            f"{name}: tuning", "the recipe has no learning rate to tune; say tuning.knobs, or tuning: {trials: 1} for none"
                        )
                    )
        except UserError as error:
            problems += error.problems
    for name, section in sections.items():
        problems += list(_whole_steps(name, section))
        notes += list(_notes(name, section, sections.get(BASELINE, section)))
    if problems:
        raise UserError(problems)
    return notes


def _whole_steps(name: str, section: RunSection) -> Iterator[Problem]:
    """Budgets that no whole number of steps comes close to."""
    wanted = spent = 0.0
    for stage in section.stages:
        if stage.budget.unit not in ("tokens", "rows") or stage.batch.unit not in ("tokens", "rows") or "batch" in stage.schedule:
            return
        sequence = (stage.data or section.data).sequence
        rows = max(1, int(stage.batch.value) // sequence) if stage.batch.unit == "tokens" else int(stage.batch.value)
        step = rows * sequence if stage.budget.unit == "tokens" else rows
        wanted += stage.budget.value
        spent += max(1, round(stage.budget.value / step)) * step
    if abs(spent / wanted - 1) > TOLERANCE:
        yield Problem(
            f"{name}: budget",
            f"whole steps spend {spent:.6g} of the {wanted:.6g} {section.stages[0].budget.unit} stated, more than 1 % off: change the budget or the batch",
        )


def coarse_budgets(race: Race, forecasts: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Problem]:
    """Budgets in FLOPs or seconds that steps are too coarse for. forecasts: by arm, for every stage what one step takes of each unit.

    A stage ends where one more step would lead further from its budget: FLOPs are counted, so what is missed is known beforehand; a step's
    seconds are not, so half a step counts.
    """
    budget, problems = race.section.budget, []
    if budget.unit not in ("flops", "seconds"):
        return []
    for arm, stages in forecasts.items():
        missed, largest = 0.0, 0.0
        for part, stage in zip(stage_shares(race.entrants[arm], budget), stages):
            wanted, step = budget.value * part, float(stage[budget.unit])
            off = step / 2 if budget.unit == "seconds" else max(1, round(wanted / step)) * step - wanted
            missed, largest = missed + off, max(largest, step)
        if abs(missed) > TOLERANCE * budget.value:
            problems.append(
                Problem(
                    f"{arm}: budget",
                    f"a step takes about {largest:.3g} of the {budget.value:.6g} {budget.unit} stated, so that whole steps miss them by "
                    f"{abs(missed) / budget.value:.1%}, more than 1 %: change the budget or the batch",
                )
            )
    return problems


def _notes(name: str, section: RunSection, base: RunSection) -> Iterator[str]:
    """What a reader of the result must know."""
    end = final_factor(section)
    if end > 0.11:
        yield f"{name}: the learning rate ends at {end:.0%} of its peak; a run that is not fully decayed looks worse than its method"
    if plain(section.data.tokenizer) != plain(base.data.tokenizer):
        yield f"{name}: another tokenizer than the baseline's; only bits per byte compare them"
    if plain(section.stages[0].batch) != plain(base.stages[0].batch) or section.data.sequence != base.data.sequence:
        yield f"{name}: another batch or sequence than the baseline's; its rows come in the same order, its steps do not hold the same ones"


def final_factor(section: RunSection) -> float:
    """The learning rate's factor at the very end of the last stage."""
    stage = section.stages[-1]
    if "lr" not in stage.schedule:
        return 1.0
    budget = stage.budget
    progress = Progress(**{budget.unit: int(budget.value) if budget.unit in ("tokens", "rows") else budget.value})
    per_step = dict.fromkeys(("steps", "rows", "tokens", "flops", "seconds", "epochs"), budget.value / 100)
    try:
        return float(stage.schedule["lr"].build(moment=Moment(progress, budget, per_step)))
    except (TypeError, ValueError):
        return 0.0
