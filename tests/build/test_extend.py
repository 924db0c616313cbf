"""A larger budget for a run that has ended: where the schedules allow it, the run that budget would have been, bit for bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import lines

import ingot
from ingot.core.errors import UserError
from ingot.train.checkpoint import Checkpoints, read_tensors

SHORT, LONG = "12 steps", "24 steps"
STABLE = {"name": "warmup_stable_decay", "warmup": "2 steps", "decay": "4 steps"}
SCHEDULES = {
    "constant": ({"name": "constant", "warmup": "3 steps"}, 12),
    "inverse_sqrt": ({"name": "inverse_sqrt", "warmup": "3 steps"}, 12),
    "infinite": ({"name": "infinite", "warmup": "2 steps", "cooldown": "4 steps"}, 12),
    "stable": (STABLE, 8),
    "in tokens": ({"name": "warmup_stable_decay", "warmup": "300 tokens", "decay": "4 steps"}, 8),
}


def train(tiny_recipe: Any, budget: str, curve: dict[str, Any] | None, name: str = "tiny", **more: Any) -> Any:
    schedule = {} if curve is None else {"lr": curve}
    recipe = tiny_recipe(
        {"stages": {0: {"budget": budget, "schedule": schedule} | more}, "checkpoint": {"every": "4 steps", "keep_last": 9}}, name=name
    )
    recipe.tree["stages"][0]["schedule"] = schedule
    run = ingot.build(recipe)
    run.train()
    return run


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    path = Checkpoints(Path(folder) / "checkpoints").latest()
    assert path is not None
    return read_tensors(path, prefix="")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def rates(folder: str | Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (Path(folder) / "ledger.jsonl").read_text().splitlines()]
    return {line["step"]: line["lr"] for line in lines if line["kind"] == "step"}


def test_a_run_is_extended_from_inside(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(tiny_recipe, SHORT, SCHEDULES["constant"][0]).folder.resolve()
    monkeypatch.chdir(folder)
    made = ingot.extend(".", LONG)
    assert (
        Path(made["run"]) == folder.with_name("tiny_extended")
        and ingot.load_recipe(f"{made['run']}/recipe.yaml").tree["name"] == "tiny_extended"
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_equals_the_run_of_the_larger_budget(tiny_recipe: Any, name: str) -> None:
    """Weights and optimizer state bit for bit, and the rate of every step in the ledger."""
    curve, step = SCHEDULES[name]
    train(tiny_recipe, SHORT, curve)
    before = {path: path.read_bytes() for path in Path("runs/tiny").rglob("*") if path.is_file()}
    made = ingot.extend("runs/tiny", LONG)
    assert made["step"] == step
    extended = ingot.build(Path(made["run"]) / "recipe.yaml")
    assert extended.train()["step"] == 24
    train(tiny_recipe, LONG, curve, name="long")
    if name == "infinite":  # its cooldown is computed in shares of the budget: rounding
        assert rates("runs/tiny_extended") == pytest.approx(rates("runs/long"), rel=1e-12)
    else:
        assert rates("runs/tiny_extended") == rates("runs/long") and list(rates("runs/long")) == list(range(1, 25))
        assert equal(weights("runs/tiny_extended"), weights("runs/long"))
    assert not equal(weights("runs/tiny_extended"), weights("runs/tiny"))
    assert {path: path.read_bytes() for path in before} == before, "the old run was changed"


def test_lineage_names_the_old_run(tiny_recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from ingot.cli import main

    train(tiny_recipe, SHORT, STABLE)
    assert main(["extend", "runs/tiny", "--budget", LONG]) == 0
    out = capsys.readouterr().out
    assert "from step 8" in out and "4 steps after it are left to runs/tiny" in out and "ingot train runs/tiny_extended/recipe.yaml" in out
    assert main(["train", "runs/tiny_extended/recipe.yaml"]) == 0
    capsys.readouterr()
    assert main(["lineage", "runs/tiny_extended"]) == 0
    assert re.search(r"from extension runs/tiny/checkpoints/step-00000008 .*step 8.*budget 12 steps -> 24 steps", capsys.readouterr().out)


def test_a_share_of_the_old_budget_stays_as_long_as_it_was(tiny_recipe: Any) -> None:
    train(tiny_recipe, SHORT, {"name": "warmup_stable_decay", "warmup": "25%", "decay": "25%"})
    made = ingot.extend("runs/tiny", LONG)
    assert made["step"] == 8 and any("25% of 12 steps was 3 steps" in line for line in made["lines"])
    ingot.build(Path(made["run"]) / "recipe.yaml").train()
    factors = [rate / 0.003 for rate in rates("runs/tiny_extended").values()]
    assert (
        factors[:3] == pytest.approx([1 / 6, 0.5, 5 / 6]) and set(factors[3:18]) == {1.0} and factors[18] < 1
    )  # the decay: the last quarter of the new one


@pytest.mark.parametrize("curve", ["cosine", "linear", "one_cycle"])
def test_what_bends_from_the_start_is_refused(tiny_recipe: Any, curve: str) -> None:
    train(tiny_recipe, SHORT, {"name": curve})
    with pytest.raises(
        UserError, match=f"lr follows {curve}, which has turned toward the end of 12 steps since step .*(?s:.*)--rewarm"
    ) as caught:
        ingot.extend("runs/tiny", LONG)
    assert len(caught.value.problems) == 2
    assert not Path("runs/tiny_extended").exists()


def test_no_checkpoint_from_before_the_decay(tiny_recipe: Any) -> None:
    train(tiny_recipe, SHORT, STABLE)
    import shutil

    for step in (0, 4, 8):
        shutil.rmtree(f"runs/tiny/checkpoints/step-0000000{step}")
    with pytest.raises(UserError, match="since step 9, and no checkpoint from before is kept"):
        ingot.extend("runs/tiny", LONG)


def test_rewarming_is_a_further_stage(tiny_recipe: Any) -> None:
    """The old rates up to the end, then a warm-up and the cosine of the rest; equal to a run of two such stages."""
    train(tiny_recipe, SHORT, {"name": "cosine"})
    made = ingot.extend("runs/tiny", LONG, rewarm="3 steps")
    extended = ingot.build(Path(made["run"]) / "recipe.yaml")
    extended.train()
    found = rates("runs/tiny_extended")
    assert list(found) == list(range(1, 25)) and {step: found[step] for step in range(1, 13)} == rates("runs/tiny")
    assert found[13] < found[14] < found[15] and found[16] > found[20] > found[24]
    stage = {
        "batch": "8 rows",
        "budget": SHORT,
        "optimizer": {"name": "adamw", "lr": 0.003},
        "schedule": {"lr": {"name": "cosine", "warmup": "3 steps"}},
        "hooks": ["clip"],
    }
    recipe = tiny_recipe({"checkpoint": {"every": "4 steps"}}, name="two")
    recipe.tree["stages"] = [stage | {"schedule": {"lr": {"name": "cosine"}}}, stage]
    two = ingot.build(recipe)
    two.train()
    assert equal(weights("runs/tiny_extended"), weights("runs/two"))
    assert extended.parents[0]["rewarm"] == "3 steps"


def test_rewarming_reads_on_in_the_data_of_the_last_stage(tiny_recipe: Any) -> None:
    stage = {"batch": "8 rows", "budget": "4 steps", "optimizer": {"name": "adamw", "lr": 0.003}}
    recipe = tiny_recipe()
    recipe.tree["stages"] = [stage, stage | {"data": recipe.tree["data"] | {"holdout": 0.4}}]
    ingot.build(recipe).train()
    made = ingot.extend("runs/tiny", "6 steps", rewarm="1 steps")
    extended = ingot.build(Path(made["run"]) / "recipe.yaml")
    extended.train()
    assert [line["first_row"] for line in lines(extended, "step")] == [*range(0, 32, 8), *range(0, 48, 8)]


def test_the_last_of_two_stages(tiny_recipe: Any) -> None:
    """The larger budget is the last stage's; its decay began at its third step, so it is done again from its beginning."""
    stage = {"batch": "8 rows", "budget": "6 steps", "optimizer": {"name": "adamw", "lr": 0.003}, "schedule": {"lr": {"name": "cosine"}}}
    recipe = tiny_recipe({"checkpoint": {"every": "3 steps", "keep_last": 9}})
    recipe.tree["stages"] = [stage, stage | {"schedule": {"lr": STABLE}}]
    ingot.build(recipe).train()
    made = ingot.extend("runs/tiny", "12 steps")
    assert made["step"] == 6
    ingot.build(Path(made["run"]) / "recipe.yaml").train()
    assert len(rates("runs/tiny_extended")) == 18


@pytest.mark.parametrize(
    ("budget", "words"),
    [("6 steps", "wants more"), ("12 steps", "wants more"), ("1M tokens", "which is 12 steps"), ("many", "wants an amount with its unit")],
)
def test_a_budget_that_is_none(tiny_recipe: Any, budget: str, words: str) -> None:
    train(tiny_recipe, SHORT, None)
    with pytest.raises(UserError, match=words):
        ingot.extend("runs/tiny", budget)


def test_neither_over_a_run_nor_from_nothing(tiny_recipe: Any) -> None:
    with pytest.raises(UserError, match="no run at"):
        ingot.extend("runs/none", LONG)
    train(tiny_recipe, SHORT, None)
    ingot.extend("runs/tiny", LONG)
    with pytest.raises(UserError, match="exists already"):
        ingot.extend("runs/tiny", LONG)
    with pytest.raises(UserError, match="ingot extend runs/tiny --budget"):
        train(tiny_recipe, LONG, None)
