"""Everything about a recipe that can be known to be wrong without reading data: all problems at once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from ..core.errors import Problem, UserError
from ..core.parts import Spec, load, signature, walk_specs
from ..core.quantities import Quantity
from ..core.recipe import Keys, Recipe
from ..core.resolve import nearest, try_resolve
from ..core.seams import SLOTS
from .schema import RunSection, Stage


def resolve_run(recipe: Recipe) -> RunSection:
    """The recipe as sections and Specs. Raises UserError with every problem."""
    section, problems = check(recipe)
    if problems:
        raise UserError(problems)
    assert section is not None
    return section


def check(recipe: Recipe) -> tuple[RunSection | None, list[Problem]]:
    """Values first; then, if they all hold, the rules between parts."""
    section, problems = try_resolve(recipe, RunSection)
    if problems or section is None:
        return None, problems
    return section, list(_between(recipe, section))


def batch_rows(batch: Quantity, sequence: int) -> int:
    """Rows of a global batch given in tokens or rows."""
    return round(batch.value / sequence) if batch.unit == "tokens" else round(batch.value)


def _between(recipe: Recipe, run: RunSection) -> Iterator[Problem]:
    def problem(path: str, message: str, hint: str = "") -> Problem:
        keys: Keys = tuple(int(word) if word.isdigit() else word for word in path.split("."))
        suffix = "   [command line]" if recipe.by_command_line(keys) else ""
        return Problem(path, message + suffix, recipe.origin(keys), hint)

    context = {"width": run.model.width, "sequence": run.data.sequence, "precision": run.precision, "run": run}
    for path, spec in walk_specs(run):
        info = SLOTS.get(spec.slot)
        expected = signature(spec.target)
        strange = [name for name, item in expected.wiring.items() if info and name not in info.wiring and item.default is inspect.Parameter.empty]
        if strange and info and info.wiring:
            yield problem(path, f"part {spec.name!r} asks for wiring {', '.join(strange)}, which {spec.slot} does not provide", expected.where)
        for message in _own(spec, context):
            yield problem(path, message)
    if run.data.tokenizer is None and hasattr(run.data.train.target, "shards") and not getattr(run.model.embedding.target, "tokenizer", None):
        yield problem("data.tokenizer", "texts need a tokenizer: bytes, bpe or pretrained")
    if isinstance(run.layout, Spec) and run.layout.name == "fsdp":
        for index, stage in enumerate(run.stages):
            if stage.objective is not None and index:
                yield problem(f"stages.{index}.objective", "another objective cannot be entered under fsdp; use replicate, or a second run with --from")
    if not run.stages:
        yield problem("stages", "needs at least one stage")
    for index, stage in enumerate(run.stages):
        yield from _stage(run, stage, f"stages.{index}", problem)


def _own(spec: Spec, context: dict[str, Any]) -> Iterator[str]:
    checker = getattr(spec.target, "check", None)
    if checker is not None:
        yield from checker(spec.knobs, context) or ()


def _stage(run: RunSection, stage: Stage, path: str, problem: Any) -> Iterator[Problem]:
    if stage.budget.value <= 0:
        yield problem(f"{path}.budget", "wants a budget above 0")
    data = stage.data or run.data
    if stage.batch.unit != "audio_seconds" and batch_rows(stage.batch, data.sequence) < 1:
        yield problem(f"{path}.batch", f"{stage.batch} is less than one row of {data.sequence} tokens")
    if isinstance(run.micro_rows, int) and batch_rows(stage.batch, data.sequence) < run.micro_rows and not path.endswith("0"):
        yield problem("micro_rows", f"{run.micro_rows} rows are more than the global batch of {path}")
    objective = stage.objective or run.model.objective
    for knob in stage.schedule:
        head, _, rest = knob.partition(".")
        if knob == "batch":
            continue
        if head == "objective":
            known = list(signature(objective.target).knobs)
            missing = rest not in known
        elif head == "hooks":
            name, _, rest = rest.partition(".")
            hook = next((hook for hook in stage.hooks if hook.name == name), None)
            known = list(signature(hook.target).knobs) if hook else [item.name for item in stage.hooks]
            missing = hook is None or rest not in known
        else:
            known = list(signature(stage.optimizer.target).knobs)
            missing = head not in known or bool(rest)
        if missing:
            near = nearest(rest or head, known) or f"There are: {', '.join(known)}"
            yield problem(f"{path}.schedule.{knob}", f"no such knob to schedule. {near}")


def part_of(slot: str, name: str) -> Any:
    """A part by slot and name, as a UserError when there is none."""
    try:
        return load(slot, name)
    except KeyError:
        raise UserError(f"no part named {name!r} in {slot}") from None
