"""Stopped or killed at an awkward moment, a run goes on as one that was never stopped: knobs, evaluations, the ledger, the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import StopAt, lines, weights

import ingot
from ingot.build.program import Program
from ingot.core.errors import RunError, UserError

LINEAR = {"name": "linear", "warmup": "0%", "final": 0.3}


def losses(run: Any, kind: str) -> list[tuple[Any, ...]]:
    """Of the ledger's steps or evaluations."""
    if kind == "step":
        return [(line["step"], line["batch_rows"], line["loss"]) for line in lines(run, "step")]
    return [(line["step"], line["stage"], *(result["loss"] for result in line["results"].values())) for line in lines(run, "evaluation")]


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_scheduled_knobs_are_those_of_the_step(tiny_recipe: Any, stop: int) -> None:
    """Of the objective, a hook and the batch; an objective's knob is the recipe's own again in the next stage."""
    stage = {"budget": "64 rows", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 0.003}}
    knobs = dict.fromkeys(("lr", "batch", "objective.rate", "hooks.clip.max_norm"), LINEAR)
    change = {
        "model": {"objective": {"name": "masked_lm", "rate": 0.4}},
        "stages": [stage | {"hooks": ["clip"], "schedule": knobs}, stage],
        "evaluate": {"every": "40 rows", "rows": 8},
        "checkpoint": {"every": "1 steps"},
    }
    straight, broken = (ingot.build(tiny_recipe(change, name=name)) for name in ("straight", "broken"))
    straight.train()
    assert straight.model.objective.rate == 0.4
    broken.train(StopAt(stop))
    again = ingot.build(tiny_recipe(change, name="broken"))
    again.train()
    assert losses(straight, "step") == losses(again, "step") and losses(straight, "evaluation") == losses(again, "evaluation")
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(straight).items())


def test_the_last_checkpoint_knows_the_last_evaluation(tiny_recipe: Any) -> None:
    """Though a save was due before it; and a finished run that is opened again has nothing to add."""
    change = {"evaluate": {"every": "3 steps", "rows": 8}, "checkpoint": {"every": "2 steps"}, "stages": {0: {"budget": "4 steps"}}}
    run = ingot.build(tiny_recipe(change))
    run.train()
    for _ in range(2):
        found = losses(run, "evaluation")
        assert [step for step, *_ in found] == [0, 3, 4]
        loss = sum(found[-1][2:]) / len(found[-1][2:])
        manifest = run.checkpoints.manifest(run.checkpoints.latest())
        assert manifest["metrics"]["loss"] == pytest.approx(loss, rel=1e-12) and manifest["plain"]["extra"]["evaluated"] == 4
        ingot.build(tiny_recipe(change)).train()


def test_a_stage_that_was_entered_but_not_saved_is_told_once(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grown = {"transforms": ["stack"]}
    stage = {"budget": "2 steps", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 0.003}}
    change = {"stages": [stage, stage | grown]}
    straight = ingot.build(tiny_recipe(change, name="straight"))
    straight.train()
    broken, save = ingot.build(tiny_recipe(change, name="broken")), Program.save

    def failing(self: Program, state: Any, metrics: Any) -> Any:
        if (state.progress.stage, state.progress.total_steps) == (1, 2):
            raise RunError("killed")
        return save(self, state, metrics)

    with monkeypatch.context() as patch, pytest.raises(RunError, match="killed"):
        patch.setattr(Program, "save", failing)
        broken.train()
    again = ingot.build(tiny_recipe(change, name="broken"))
    again.train()
    assert losses(straight, "evaluation") == losses(again, "evaluation") and losses(straight, "step") == losses(again, "step")
    assert len([line for line in lines(again, "event") if line["name"] == "transform"]) == 1


def test_the_last_window_counts_the_rows_that_it_has(tiny_recipe: Any) -> None:
    change = {"data": {"train": {"max_epochs": {"left": 0.2, "right": 0.2}}}, "stages": {0: {"budget": "500 rows"}}, "micro_rows": 2}
    run = ingot.build(tiny_recipe(change))
    summary = run.train()
    end = run.data_of(0).train.end
    assert end is not None and end % 8 and summary["rows"] == end
    steps = lines(run, "step")
    assert sum(line["batch_rows"] for line in steps) == end and steps[-1]["batch_rows"] == end % 8
    micro = -(-(end % 8) // 2)
    assert steps[-1]["step_flops"] < steps[0]["step_flops"] * (micro + 0.5) / 4


def test_a_checkpoint_whose_replacement_never_arrived_is_gone_on_from(tiny_recipe: Any) -> None:
    change = {"checkpoint": {"keep_last": 1}}
    run = ingot.build(tiny_recipe(change))
    run.train(StopAt(5))
    last = run.checkpoints.latest()
    assert last is not None
    last.rename(last.with_name(f".{last.name}.old"))
    again = ingot.build(tiny_recipe(change))
    assert again.train()["step"] == 12
    assert [line["step"] for line in lines(again, "step")] == list(range(1, 13))
    assert len([line for line in lines(again, "event") if line["name"] == "resume"]) == 1


def test_a_stage_takes_all_knobs_of_its_optimizer_and_keeps_its_state(tiny_recipe: Any) -> None:
    """Also those that the optimizer holds outside of its groups; straight or resumed."""
    rest = {"name": "adamw", "lr": 0.003}
    first = {"name": "muon", "lr": 0.01, "rest": rest}
    stages = [
        {"budget": "3 steps", "batch": "8 rows", "optimizer": first},
        {"budget": "3 steps", "batch": "8 rows", "optimizer": first | {"scale": "match_rms_adamw", "iterations": 3}},
    ]
    straight, broken = (ingot.build(tiny_recipe({"stages": stages}, name=name)) for name in ("straight", "broken"))
    straight.train()
    broken.train(StopAt(4))
    again = ingot.build(tiny_recipe({"stages": stages}, name="broken"))
    again.train()
    assert losses(straight, "step") == losses(again, "step")
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(straight).items())
    state = straight.state(straight.checkpoints.latest())
    assert state.optimizer.scale == "match_rms_adamw" and {
        float(value["step"]) for value in state.optimizer.state.values() if "step" in value
    } == {6.0}


def test_another_inner_optimizer_begins_afresh(tiny_recipe: Any) -> None:
    stages = [
        {"budget": "2 steps", "batch": "8 rows", "optimizer": {"name": "muon", "lr": 0.01, "rest": {"name": rest, "lr": 0.001}}}
        for rest in ("adamw", "lion")
    ]
    run = ingot.build(tiny_recipe({"stages": stages}))
    run.train(StopAt(2))
    again = ingot.build(tiny_recipe({"stages": stages}))
    again.train()
    assert type(again.state(again.checkpoints.latest()).optimizer.rest).__name__ == "Lion"


def test_a_teacher_goes_on_where_the_objective_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ingot.load_recipe("vision/dino_tiny", ["name=two", "stages.0.budget=3 steps"], tiny=True)
    recipe.tree["stages"] = recipe.tree["stages"][:1] * 2
    run = ingot.build(recipe)
    run.train()
    assert run.checkpoints.manifest(run.checkpoints.latest())["progress"]["stage"] == 1
    begun: list[Any] = []
    monkeypatch.setattr(type(run.model.objective), "begin", lambda self, model: begun.append(model))
    recipe.tree["name"] = "again"
    ingot.build(recipe).train()
    assert len(begun) == 1, "on entering the first stage alone"


def test_positions_have_room_for_the_longest_stage(tiny_recipe: Any) -> None:
    data = tiny_recipe().tree["data"]
    change = {
        "model": {"embedding": {"name": "token", "position": "learned"}},
        "stages": [
            {"budget": "1 steps", "batch": "4 rows", "optimizer": {"name": "adamw", "lr": 0.003}, "data": data | {"sequence": length}}
            for length in (16, 64)
        ],
    }
    run = ingot.build(tiny_recipe(change))
    assert run.train()["step"] == 2
    again = ingot.open_run(run.folder)
    again.evaluate(rows=4)
    assert list(again._data) == [1]


def test_another_start_of_a_run_that_exists_is_refused_and_its_own_may_be_gone(tiny_recipe: Any) -> None:
    import shutil

    change = {"stages": {0: {"budget": "4 steps"}}}
    first, other = (ingot.build(tiny_recipe(change, name=name)) for name in ("first", "other"))
    first.train()
    other.train()
    ingot.build(tiny_recipe(change, name="second"), start_from=str(first.folder)).train(StopAt(2))
    with pytest.raises(UserError, match="exists and did not start from"):
        ingot.build(tiny_recipe(change, name="second"), start_from=str(other.folder))
    shutil.rmtree(first.folder)
    again = ingot.build(tiny_recipe(change, name="second"), start_from=str(first.folder))
    assert again.train()["step"] == 4 and again.parents[0]["path"].startswith(str(first.folder))


def test_a_knob_that_an_optimizer_asks_for_once_cannot_be_scheduled(tiny_recipe: Any) -> None:
    optimizer = {"name": "muon", "lr": 0.01, "rest": {"name": "adamw", "lr": 0.003}}
    stage = {"budget": "2 steps", "batch": "8 rows", "optimizer": optimizer}
    with pytest.raises(UserError, match=r"schedule\.iterations: muon asks for it once"):
        ingot.build(tiny_recipe({"stages": [stage | {"schedule": {"iterations": LINEAR}}]})).train()
    assert ingot.build(tiny_recipe({"stages": [stage | {"schedule": {"momentum": LINEAR}}]})).train()["step"] == 2


def test_a_stage_without_an_objective_of_its_own_schedules_that_of_the_stage_before(tiny_recipe: Any) -> None:
    stage = {"budget": "2 steps", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 0.003}}
    masked = stage | {"objective": {"name": "masked_lm", "rate": 0.4}}
    run = ingot.build(tiny_recipe({"stages": [stage, masked, stage | {"schedule": {"objective.rate": LINEAR}}]}))
    assert run.train()["step"] == 6
