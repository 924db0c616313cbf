"""A trial of a recipe: train it in its folder, resuming what is there, measured all along by the evaluation that every arm shares."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..build.check import resolve_run
from ..build.run import Run, refuse_changed
from ..core.errors import RunError, UserError
from ..core.parts import plain
from ..core.recipe import Recipe
from ..ledger.ledger import read
from .clock import processor_seconds
from .curves import summarize
from .metric import lacking, metric_of, unusable
from .trials import note, write_whole

NOWHERE = Path("nowhere")


def run_recipe(folder: Path, trial: dict[str, Any], threads: int) -> None:
    """Train and write result.json. A run that cannot go on (a loss that is not finite) is a result too: it failed."""
    torch.set_num_threads(threads)
    os.chdir(trial["cwd"])
    run = open_trial(folder / "run", trial["what"]["recipe"])
    share_evaluation(run, trial["what"]["shared"])
    refuse_unmeasured(run, trial["metric"])
    at = run.checkpoints.latest()
    if at is not None:
        note(folder, event="resumed", checkpoint=at.name)
    failure, before = "", processor_seconds()
    try:
        reason = run.train()["reason"]
        if reason != "finished":
            raise InterruptedError(reason)
    except RunError as error:
        if not about_numbers(str(error)):
            raise
        failure = str(error)
    # What was lost in a kill is not known, so processor time is told of trials that ran in one go alone.
    finish(folder, run, trial, failure, processor_seconds() - before if at is None else None)


def finish(folder: Path, run: Run, trial: dict[str, Any], failure: str, processor: float | None = None) -> None:
    """What the ledger tells, as the trial's result; then the checkpoints, which only a resume needs, go. processor: seconds of all
    threads, evaluation included."""
    result = summarize(read(run.folder), metric=trial["metric"])
    result["spent"]["cpu_seconds"] = processor
    failure = failure or unusable(result["final"], result["results"], result["metric"])
    write_whole(folder / "result.json", result | {"status": "failed" if failure else "done", "reason": failure})
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)


def about_numbers(message: str) -> bool:
    """Whether training stopped for what it computed at a step: then trying again gives the same. A full disk is another matter."""
    return re.match(r"step \d+: ", message) is not None


def open_trial(folder: Path, tree: dict[str, Any]) -> Run:
    """The Run of a trial's recipe in a given folder."""
    run = Run(resolve_run(Recipe(tree), Path.cwd()), folder)
    refuse_changed(run)
    return run


def share_evaluation(run: Run, shared: dict[str, Any]) -> None:
    """Let the run be evaluated on the baseline's validation rows by the baseline's objective, where its own differ.

    Raises UserError when that cannot be done: the race is refused, not run on numbers that do not compare.
    """
    common = Run(resolve_run(Recipe(shared), Path.cwd()), NOWHERE)
    if plain(common.section.data.tokenizer) == plain(run.section.data.tokenizer):
        # A tokenizer that is trained depends on the texts held out, which an arm may change.
        run._known_tokenizer = lambda key: common.tokenizer  # type: ignore[method-assign]
    same_data = plain(common.section.data) == plain(run.section.data)
    same_objective = all(plain(spec) == plain(common.objective_spec) for spec in objectives(run))
    if same_data and same_objective:
        return
    if not same_data and common.tokenizer.identity != run.tokenizer.identity:
        if not same_objective:
            raise UserError("another tokenizer and another objective than the baseline's: there is no evaluation that both can share")
        return  # each on its own text rows; bits per byte compare them
    streams = None if same_data else common.data_of(0).validation
    own = run.evaluate_streams

    def evaluate(given: dict[str, Any], *arguments: Any, **more: Any) -> dict[str, dict[str, float]]:
        with judged_by(run, common):
            return own(streams or given, *arguments, **more)

    run.evaluate_streams = evaluate  # type: ignore[method-assign, assignment]


def refuse_unmeasured(run: Run, metric: str) -> None:
    """Let the run's first evaluation tell a metric that it does not give: UserError then, not after the whole race."""
    own = run.evaluate_streams

    def evaluate(*arguments: Any, **more: Any) -> dict[str, dict[str, float]]:
        found = own(*arguments, **more)
        if metric_of(found, metric) is None:
            raise UserError(f"metric: {lacking(found, metric)}")
        return found

    run.evaluate_streams = evaluate  # type: ignore[method-assign]


def objectives(run: Run) -> list[Any]:
    return [run.section.model.objective, *(stage.objective for stage in run.section.stages if stage.objective is not None)]


@contextmanager
def judged_by(run: Run, common: Run) -> Any:
    """The model with the common objective, which takes its weights by name from the run's own."""
    own, spec = run.model.objective, run.objective_spec
    run.objective_spec = common.section.model.objective
    judge = run.plain_model().objective.to(run.device)
    run.objective_spec = spec
    judge.output_scale = getattr(own, "output_scale", getattr(judge, "output_scale", 1.0))
    weights = own.state_dict()
    missing = [name for name, value in judge.state_dict().items() if name not in weights or weights[name].shape != value.shape]
    if missing:
        raise UserError(f"the objective has no {', '.join(missing)}, which the baseline's objective needs to evaluate it")
    judge.load_state_dict({name: weights[name] for name in judge.state_dict()})
    run.model.set_objective(judge)
    try:
        yield
    finally:
        run.model.set_objective(own)


def survey(folder: Path, trial: dict[str, Any], threads: int) -> None:
    """Look at an arm before the race: prepare its data, say what decides its rows, and forecast a run where that is asked for. Writes
    survey.json; lenient: what cannot be forecast is told there and is no error."""
    from ..build.memory_fit import available_bytes
    from ..build.plan import plan

    torch.set_num_threads(threads)
    os.chdir(trial["cwd"])
    run = open_trial(NOWHERE, trial["what"]["recipe"])
    share_evaluation(run, trial["what"]["shared"])
    data = [run.data_of(index) for index in range(len(run.section.stages))]
    found: dict[str, Any] = {
        "identities": [item.identity for item in data],
        "parameters": None,
        "seconds": None,
        "flops": None,
        "steps": None,
        "fields": sorted(data[0].train.fields()),
        "stages": [],
    }
    if trial.get("forecast"):
        try:
            answer = plan(run, available_bytes(run))
        except UserError as error:
            if not trial.get("lenient"):
                raise
            write_whole(folder / "survey.json", found | {"unplanned": str(error)})
            return
        found |= {
            "parameters": answer["parameters"],
            "seconds": answer["seconds"],
            "steps": sum(stage["steps"] for stage in answer["stages"]),
            "flops": sum(stage["forecast"]["flops"] * stage["steps"] for stage in answer["stages"]),
            "stages": [{"flops": stage["forecast"]["flops"], "seconds": stage["step_seconds"]} for stage in answer["stages"]],
        }
    write_whole(folder / "survey.json", found)
