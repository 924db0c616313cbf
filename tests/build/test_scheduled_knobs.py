"""Which knobs a schedule may move: those that are read anew in every step; the others are refused before a step is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import lines

import ingot
from ingot.build.check import check
from ingot.build.plan import refuse_unschedulable
from ingot.core.errors import UserError

HALF = "{name: linear, warmup: 0%, final: 0.5}"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def make(name: str, knob: str, *more: str) -> Any:
        return ingot.load_recipe(name, [f"stages.0.schedule={{{knob}: {HALF}}}", "compile=false", *more], tiny=True)

    return make


@pytest.mark.parametrize(
    ("name", "knob", "words"),
    [
        ("vision/ijepa_tiny", "objective.blocks", "fractions of a whole number"),
        ("speech/hubert_tiny", "objective.units", "fractions of a whole number"),
        ("vision/ijepa_tiny", "objective.momentum", "set forget to 0.1, its distance from 1"),
        ("vision/dino_tiny", "objective.momentum", "set forget to 0.1, its distance from 1"),
        ("vision/dino_tiny", "objective.forget", "only a number can be scheduled"),
    ],
)
def test_what_the_recipe_alone_tells(recipe: Any, name: str, knob: str, words: str) -> None:
    _, problems = check(recipe(name, knob))
    assert any(words in str(problem) for problem in problems), problems


@pytest.mark.parametrize("name", ["vision/ijepa_tiny", "vision/dino_tiny"])
def test_a_teacher_may_forget_less_and_less(recipe: Any, name: str) -> None:
    made = recipe(name, "objective.forget", "model.objective.forget=0.1")
    assert not check(made)[1]
    refuse_unschedulable(ingot.build(made), 0)


@pytest.mark.parametrize(
    ("name", "knob"),
    [
        ("image_text/clip_emoji", "temperature"),
        ("image_text/siglip_emoji", "shift"),
        ("series/patchtst_etth1", "dropout"),
        ("speech/hubert_tiny", "dropout"),
        ("speech/wav2vec2_tiny", "memory"),
    ],
)
def test_what_an_objective_asks_for_once(recipe: Any, name: str, knob: str) -> None:
    with pytest.raises(UserError, match=rf"stages\.0\.schedule\.objective\.{knob}: \w+ asks for it once"):
        refuse_unschedulable(ingot.build(recipe(name, f"objective.{knob}")), 0)


@pytest.mark.parametrize(
    ("name", "knob"),
    [
        ("image_text/clip_emoji", "most"),
        ("series/masked_patches", "rate"),
        ("speech/ctc_digits", "hide"),
        ("speech/data2vec_audio", "forget"),
        ("speech/hubert_tiny", "masked"),
        ("speech/wav2vec2_tiny", "diversity"),
        ("tables/adult", "rate"),
        ("tables/adult", "numeric_weight"),
    ],
)
def test_what_it_asks_for_in_every_step(recipe: Any, name: str, knob: str) -> None:
    refuse_unschedulable(ingot.build(recipe(name, f"objective.{knob}")), 0)


def test_a_later_stage_is_looked_at_before_the_first_begins(tiny_recipe: Any) -> None:
    stage = {"budget": "2 steps", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 0.003}}
    layer = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}
    later = {"objective": {"name": "multi_token", "layer": layer}, "schedule": {"objective.weight": {"name": "linear", "warmup": "0%"}}}
    run = ingot.build(tiny_recipe({"stages": [stage, stage | later]}))
    with pytest.raises(UserError, match=r"stages\.1\.schedule\.objective\.weight: multi_token asks for it once"):
        run.train()
    assert not run.checkpoints.all()


def test_a_knob_of_muon_is_not_that_of_its_inner_optimizer(tiny_recipe: Any) -> None:
    """Of the same name; the learning rates follow together."""
    rest = {"name": "sgd", "lr": 0.1, "momentum": 0.5}
    stage = {
        "optimizer": {"name": "muon", "lr": 0.01, "momentum": 0.9, "rest": rest},
        "schedule": {name: {"name": "constant"} for name in ("lr", "momentum")},
    }
    run = ingot.build(tiny_recipe({"stages": {0: stage}}))
    state = run.state()
    knobs = {knob.name: knob for knob in run.program.enter(state).knobs}
    for name in ("lr", "momentum"):
        knobs[name].apply(0.5)
    found = {(group.get("rule"), group["lr"], group["momentum"]) for group in state.optimizer.param_groups}
    assert found == {("muon", 0.005, 0.45), (None, 0.05, 0.5)}


def test_a_teacher_goes_on_in_a_run_that_starts_from_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same objective; what starts without one of its own has a copy of the student."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, **more: Any) -> Any:
        words = [f"name={name}", "stages.0.budget=3 steps", "compile=false"]
        return ingot.build(ingot.load_recipe("vision/ijepa_tiny", words, tiny=True), **more)

    first = make("first")
    first.train()
    second = make("second", start_from=str(first.folder))
    second.program.enter(second.state())
    key = "encoder.blocks.0.mixer.query.weight"
    taught, held = (run.model.objective.teacher.state_dict()[key] for run in (first, second))
    assert torch.equal(taught, held) and not torch.equal(held, second.model.state_dict()[key])
    fresh = make("third")
    fresh.program.enter(fresh.state())
    assert torch.equal(fresh.model.objective.teacher.state_dict()[key], fresh.model.state_dict()[key])


def test_a_teacher_does_not_follow_an_update_that_was_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.train.anomaly import AnomalyGuard, Verdict

    monkeypatch.chdir(tmp_path)
    run = ingot.build(ingot.load_recipe("vision/ijepa_tiny", ["name=held", "stages.0.budget=3 steps", "compile=false"], tiny=True))
    followed: list[int] = []
    verdicts = iter([Verdict(), Verdict("skip", "spike", "loss is high"), Verdict()])
    monkeypatch.setattr(AnomalyGuard, "judge", lambda self, loss, norm: next(verdicts))
    monkeypatch.setattr(type(run.model.objective), "stepped", lambda self, state, log: followed.append(log["step"]))
    run.train()
    assert followed == [1, 3] and [line["step"] for line in lines(run, "step") if line.get("skipped")] == [2]
