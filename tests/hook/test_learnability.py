"""Learnability: what a reference cannot predict either is left alone; references from runs, from the start, refused ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ingot
from ingot.build.parity import compare
from ingot.core.errors import UserError
from ingot.core.resolve import spec

#         learned   to be learned   noise
LEARNER = [0.1, 0.2, 3.0, 4.0, 2.5, 6.0, 6.5, 7.0]
REFERENCE = [0.1, 0.2, 0.5, 0.6, 0.4, 6.0, 6.4, 6.9]


def build(told: Any, reference: list[float], keep: float = 0.375) -> tuple[Any, Any]:
    other = told.Told(reference)
    return spec("hook", "learnability", keep=keep, reference="elsewhere").build(open_model=lambda path: other), other


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_prefers_what_can_be_learned_to_noise_and_to_what_is_learned(told: Any, micro: int) -> None:
    hook, other = build(told, REFERENCE)
    model, rows = told.Told(LEARNER), told.window(list(range(8)), micro)
    assert told.kept(hook.select(told.state(model), rows)) == [2, 3, 4]
    by_loss = spec("hook", "online_selection", keep=0.375).build()
    assert told.kept(by_loss.select(told.state(model), rows)) == [5, 6, 7]  # loss alone takes the noise
    assert model.graded == other.graded == 0 and model.training


def test_without_a_reference_what_the_run_has_unlearned_comes_first(told: Any) -> None:
    hook, model = spec("hook", "learnability", keep=0.25).build(), told.Told(LEARNER)
    state = told.state(model)
    hook.select(state, told.window(list(range(8)), 4))
    with torch.no_grad():
        model.weight.mul_(2.0)  # every loss doubles: what was largest has risen most
    assert told.kept(hook.select(state, told.window(list(range(8)), 4))) == [6, 7]
    assert model.weight.item() == 2.0 and hook.start["weight"].item() == 1.0
    again = spec("hook", "learnability", keep=0.25).build()
    again.load_state_dict(hook.state_dict())
    with torch.no_grad():
        model.weight.mul_(-1)
    assert told.kept(again.select(state, told.window(list(range(8)), 4))) == [0, 1]
    assert again.copies == 1 and build(told, REFERENCE)[0].copies == 0


def with_hook(reference: str | None, **more: Any) -> dict[str, Any]:
    return {"stages": {0: {"budget": "6 steps", "hooks": [{"name": "learnability", "keep": 0.5, "reference": reference}]}}} | more


def test_a_run_against_another_run(tiny_recipe: Any, runs: Any) -> None:
    runs.trained(tiny_recipe({"model": {"width": 16}, "stages": {0: {"budget": "10 steps"}}}, name="reference"))
    straight = runs.trained(tiny_recipe(with_hook("runs/reference"), name="straight"))
    first = runs.lines(straight)[0]
    assert first["read_rows"] == 16 and first["batch_rows"] == 8
    # The reference is metered as a cost of hooks, at its own size: less than the learner's forward over the same rows.
    alone = runs.lines(
        runs.trained(tiny_recipe({"stages": {0: {"budget": "1 steps", "hooks": [{"name": "online_selection", "keep": 0.5}]}}}, name="loss"))
    )[0]
    learner = alone["flops_by_component"]["hooks"]
    assert learner < first["flops_by_component"]["hooks"] < 2 * learner
    runs.trained(tiny_recipe(with_hook("runs/reference"), name="broken"), stop=3)
    resumed = runs.trained(tiny_recipe(with_hook("runs/reference"), name="broken"))
    wanted, found = runs.weights(straight), runs.weights(resumed)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_run_against_its_own_start_resumes_to_the_bit(tiny_recipe: Any, runs: Any) -> None:
    straight = runs.trained(tiny_recipe(with_hook(None), name="straight"))
    runs.trained(tiny_recipe(with_hook(None), name="broken"), stop=3)
    resumed = runs.trained(tiny_recipe(with_hook(None), name="broken"))
    wanted, found = runs.weights(straight), runs.weights(resumed)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert {name: line for name, line in runs.lines(straight)[-1].items() if name == "hooks"} == {
        name: line for name, line in runs.lines(resumed)[-1].items() if name == "hooks"
    }


def test_ranks_give_the_same_gradient(tiny_recipe: Any, runs: Any, tmp_path: Path) -> None:
    data = {"train": {"name": "text_files", "paths": [str(tmp_path / "left")]}}
    runs.trained(tiny_recipe({"model": {"width": 16}, "stages": {0: {"budget": "4 steps"}}, "data": data}, name="reference"))
    resolved = ingot.build(tiny_recipe(with_hook(str(tmp_path / "runs/reference"), data=data))).resolved
    cases = compare(resolved, tmp_path / "parity", [("single", 1), ("replicate", 2)], [2])
    assert len(cases) == 2 and all(case.equal(3e-6) for case in cases), cases


def test_refusals(tiny_recipe: Any, runs: Any) -> None:
    with pytest.raises(UserError, match="no run at 'nowhere'"):
        ingot.build(tiny_recipe(with_hook("nowhere")))
    runs.trained(
        tiny_recipe({"stages": {0: {"budget": "1 steps"}}, "data": {"tokenizer": {"name": "bpe", "vocabulary": 280}}}, name="other")
    )
    with pytest.raises(UserError, match="another tokenizer"):
        runs.trained(tiny_recipe(with_hook("runs/other")))
