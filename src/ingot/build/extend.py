"""Going on under a larger budget: a run becomes another that has the old one's past, and more to spend.

Where the schedules gave the same values under both budgets, the new run is the one that the larger budget would have been from the
start. With warm-up and decay in absolute units that holds for a constant, an inverse square root, an infinite schedule, and a
warmup-stable-decay before its decay: there the newest checkpoint of the common stretch is taken, and what was decayed is left out.
A cosine bends toward its end from its first step, so moving its end is refused, unless a new warm-up is asked for: that is a further
stage, and no run without a seam.

The old run is never changed. The new one keeps its ledger and names it as its parent.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import Problem, RunError, UserError
from ..core.folders import with_name
from ..core.parts import plain
from ..core.progress import Progress, next_moment
from ..core.quantities import Quantity, parse_quantity
from ..core.recipe import Recipe, digest, dump
from ..ledger.ledger import FILE, read_lines
from ..train.checkpoint import Checkpoints
from ..train.storage import read_manifest, settle, write_manifest
from .check import resolve_run
from .run import recipe_of
from .schema import RunSection, Stage

PAST = ("warmup", "cooldown")  # spans at a schedule's beginning: what was a share of the old budget stays as long as it was
MOMENTS = 20_000  # of a stage that are looked at
Tree = dict[str, Any]


def extend(folder: str | Path, budget: str, *, out: str | Path | None = None, rewarm: str | None = None) -> dict[str, Any]:
    """Make the run that goes on under a larger budget of the last stage; ``ingot train OUT/recipe.yaml`` then trains it.

    budget: of the whole last stage, in its unit. out: the new run folder, beside the old one and named after it when not given.
    rewarm: length of a new warm-up, such as '1%' or '100 steps', from the newest checkpoint on. Returns run, checkpoint, step and
    lines that say what was done. Raises UserError where the result would not be what the larger budget means.
    """
    folder = with_name(folder)
    recipe = recipe_of(folder)
    target = Path(out) if out else folder.with_name(f"{folder.name}_extended")
    if target.exists():
        raise UserError(f"{target} exists already; 'ingot train {target}/recipe.yaml' goes on with it, --out names another place")
    before = resolve_run(recipe)
    old, new = before.stages[-1].budget, _larger(budget, before)
    tree: Tree = json.loads(json.dumps(plain(before))) | {"name": target.name}
    said: list[str] = []
    checkpoints = Checkpoints(folder / "checkpoints", say=said.append)
    if rewarm is None:
        said += _stretch(tree, old, new)
        after = resolve_run(Recipe(tree))
        path = _common(checkpoints, before.stages[-1], after.stages[-1], len(before.stages) - 1)
    else:
        path = checkpoints.latest()
        if path is None:
            raise UserError(f"the run {folder} has no whole checkpoint yet")
        after = _with_stage(tree, before, Quantity(new.value - old.value, new.unit), rewarm)
    manifest = checkpoints.manifest(path)
    step = int(manifest["progress"]["total_steps"])
    taken = {"kind": "extension", "path": str(path), "recipe_hash": manifest["recipe_hash"], "step": step, "budget": [str(old), str(new)]}
    _make(target, folder, path, after, taken | ({"rewarm": rewarm} if rewarm else {}) | {"parents": manifest["parents"]})
    newest = max(int(item.name[5:]) for item in checkpoints.all())
    said.append(
        f"from step {step}"
        + (f", before the schedule bends; the {newest - step} steps after it are left to {folder}" if step < newest else "")
    )
    return {
        "run": str(target),
        "checkpoint": str(target / "checkpoints" / path.name),
        "step": step,
        "budget": [str(old), str(new)],
        "lines": said,
    }


def _larger(budget: str, run: RunSection) -> Quantity:
    old = run.stages[-1].budget
    try:
        new = parse_quantity(budget)
    except ValueError as error:
        raise UserError([Problem("--budget", str(error))]) from None
    if new.unit != old.unit or new.value <= old.value:
        raise UserError([Problem("--budget", f"wants more of the unit that the run has, which is {old}; got {budget!r}")])
    return new


def _stretch(tree: Tree, old: Quantity, new: Quantity) -> Iterator[str]:
    """Give the last stage the larger budget; spans of its past that were shares of the old one become amounts."""
    stage = tree["stages"][-1]
    stage["budget"] = str(new)
    for knob, curve in stage["schedule"].items():
        for span in PAST:
            share = parse_quantity(curve[span]) if isinstance(curve, dict) and span in curve else None
            if share is not None and share.unit == "fraction" and share.value:
                curve[span] = str(Quantity(share.value * old.value, old.unit))
                yield f"stages.{len(tree['stages']) - 1}.schedule.{knob}.{span}: {share} of {old} was {curve[span]}, and stays that"


def _common(checkpoints: Checkpoints, before: Stage, after: Stage, index: int) -> Path:
    """The newest whole checkpoint all of whose steps had the same scheduled values under both budgets. Raises UserError without one."""
    bent = ""
    for path in reversed(checkpoints.all()):
        try:
            progress = Progress.from_dict(checkpoints.manifest(path)["progress"])
        except RunError:
            continue
        differs = _first_difference(progress, before, after) if progress.stage == index else ""
        if not differs and progress.total_steps and checkpoints.is_whole(path):
            return path
        bent = differs or bent
    if not bent:
        raise UserError(f"{checkpoints.folder} holds no whole checkpoint of a step")
    raise UserError(
        [
            Problem("", f"{bent}, and no checkpoint from before is kept: going on would not be the run that {after.budget} gives"),
            Problem(
                "",
                f"either train anew with {after.budget}, or take --rewarm 1%: a further stage with a new warm-up from where the run stopped",
            ),
        ]
    )


def _first_difference(progress: Progress, before: Stage, after: Stage) -> str:
    """In words, the first scheduled value on the way to here that a larger budget would have set otherwise; nothing if there is none."""
    steps = progress.steps
    if not steps:
        return ""
    per_step = {
        unit: float(getattr(progress, unit)) / steps for unit in ("steps", "rows", "tokens", "flops", "seconds", "epochs", "audio_seconds")
    }
    for number in sorted({round(share * (steps - 1) / min(steps, MOMENTS)) for share in range(min(steps, MOMENTS) + 1)}):
        at = Progress(**{unit: amount * number for unit, amount in per_step.items()})  # type: ignore[arg-type]
        for knob, curve in before.schedule.items():
            one, other = (float(stage.schedule[knob].build(moment=next_moment(at, stage.budget, per_step))) for stage in (before, after))
            if not math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12):
                return f"{knob} follows {curve.name}, which has turned toward the end of {before.budget} since step {progress.total_steps - steps + number + 1}"
    return ""


def _with_stage(tree: Tree, before: RunSection, budget: Quantity, rewarm: str) -> RunSection:
    """The recipe with a further stage like the last, its learning rate warmed up again."""
    stage = copy.deepcopy(tree["stages"][-1]) | {"budget": str(budget), "transforms": [], "objective": None, "annotate": None}
    curve = stage["schedule"].get("lr") or {"name": "constant"}
    curve = {"name": curve} if isinstance(curve, str) else curve
    stage["schedule"] = stage["schedule"] | {"lr": curve | {"warmup": rewarm}}
    tree["stages"].append(stage)
    return resolve_run(Recipe(tree))


def _make(target: Path, source: Path, checkpoint: Path, section: RunSection, parent: Tree) -> None:
    """The new run folder: recipe, the past of the ledger, tokenizer, choices of the machine, and the checkpoint under its new recipe."""
    tree = json.loads(json.dumps(plain(section)))
    aside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        place = aside / "checkpoints" / checkpoint.name
        shutil.copytree(checkpoint, place, ignore=shutil.ignore_patterns("manifest.json"))
        write_manifest(
            place, read_manifest(checkpoint).model_dump() | {"recipe": tree, "recipe_hash": digest(plain(section)), "parents": [parent]}
        )
        for name in ("tokenizer", "run.json"):
            if (source / name).exists():
                (shutil.copytree if (source / name).is_dir() else shutil.copy2)(source / name, aside / name)
        past = [line for line in read_lines(source / FILE) if line["kind"] != "end" and line.get("step", 0) <= parent["step"]]
        (aside / FILE).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in past), encoding="utf-8")
        (aside / "recipe.yaml").write_text(dump(tree), encoding="utf-8")
        settle(aside, target)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(f"{target} cannot be written: {error.strerror or error}") from None
