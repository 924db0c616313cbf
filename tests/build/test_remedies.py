"""What makes a run fit: a combination that does, written as the command line takes it; or the plain word that nothing does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ingot
from ingot.build import plan as module
from ingot.build.memory_fit import recipe_mode
from ingot.build.plan import forecast_stage, plan
from ingot.core.recipe import dump, load
from ingot.ledger.forecast import Forecast

OPTIMIZERS = {
    "adamw": {"name": "adamw", "lr": 0.003, "weight_decay": 0.02},
    "muon": {"name": "muon", "lr": 0.01, "rest": {"name": "adamw", "lr": 0.003}},
    "sgd": {"name": "sgd", "lr": 0.1},
}
# Made-up bytes: of an optimizer's state by all names in it, of a row's activations by how they are treated.
STATE = {"adamw": 800, "adam8bit": 210, "adam4bit": 120, "lion": 400, "adafactor": 10, "sgd": 400}
STATE |= {"muon adamw": 600, "muon adam8bit": 450, "muon adam4bit": 430}
ROW = {"none": 40, "selective": 25, "full": 8}


def pretended(
    run: Any,
    index: int,
    rows: int,
    *,
    dtype: torch.dtype | None = None,
    optimizer: Any = None,
    checkpointing: str | None = None,
    fused: bool | None = None,
) -> Forecast:
    """Instead of a forecast: sums that each change makes smaller by a known amount."""
    stage = run.section.stages[index]
    names = " ".join(spec.name for _, spec in (optimizer or stage.optimizer).walk() if spec.slot == "optim")
    kinds = {
        "weights": 400,
        "optimizer_state": STATE[names],
        "gradients": 30 if (stage.fused_backward is True if fused is None else fused) else 400,
        "activations": rows * ROW[checkpointing or recipe_mode(run, index)] // (2 if (dtype or run.dtype) == torch.bfloat16 else 1),
    }
    return Forecast(sum(kinds.values()), kinds, 1e9, {}, 0.0, rows, 100, largest_block=50, gradients=400)


@pytest.fixture
def written(tiny_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a recipe of micro-batches of 8 rows; the machine's speed is not measured."""
    monkeypatch.setattr(module, "matmul_rate", lambda device, dtype: 1e11)
    monkeypatch.setattr(module, "matmul_doubt", lambda device, dtype: "")

    def make(optimizer: str, **stage: Any) -> Path:
        patch = {
            "micro_rows": 8,
            "anomaly": {"policy": "log"},
            "stages": {0: {"batch": "8 rows", "optimizer": OPTIMIZERS[optimizer], "hooks": [], **stage}},
        }
        path = tmp_path / f"{optimizer}.yaml"
        path.write_text(dump(tiny_recipe(patch).tree), encoding="utf-8")
        return path

    return make


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "forecast_stage", pretended)


def run_of(path: Path, *overrides: str) -> Any:
    return ingot.build(load(path, overrides), runs=path.parent / "nowhere")


def stage_of(path: Path, available: float, *overrides: str) -> dict[str, Any]:
    """The planned first stage."""
    found: dict[str, Any] = plan(run_of(path, *overrides), int(available))["stages"][0]
    return found


def settings(stage: dict[str, Any]) -> list[str]:
    return [one["setting"] for one in stage["together"]["changes"]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hooks", [[], ["clip"]])
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.4])
def test_a_combination_keeps_its_word_and_holds_nothing_it_does_not_need(
    written: Any, made_up: None, optimizer: str, hooks: list[str], share: float
) -> None:
    path = written(optimizer, hooks=hooks)
    available = int(share * stage_of(path, 1)["forecast"]["peak"])
    found = stage_of(path, available)
    chosen = settings(found)
    assert not found["fits"] and found["together"]["fits"] == (found["together"]["peak"] <= available)
    if found["together"]["fits"] and not any("fsdp" in one for one in chosen):
        again = stage_of(path, available, *chosen)
        assert again["fits"] and again["forecast"]["peak"] == found["together"]["peak"] and again["together"] is None
        for fewer in itertools.combinations(chosen, len(chosen) - 1):
            assert not stage_of(path, available, *fewer)["fits"], "a change that is not needed"
    if not found["together"]["fits"]:
        assert found["together"]["peak"] <= min(one["peak"] for one in found["changes"])


def test_several_changes_are_found_where_no_single_one_is_enough(written: Any, made_up: None) -> None:
    """1,920 bytes: activations 320, gradients 400, state 800, weights 400. 1,000 wants the first two made small, and half of the state."""
    found = stage_of(written("adamw"), 1000)
    assert not any(one["fits"] for one in found["changes"] if "fsdp" not in one["setting"])
    assert settings(found)[-1] == "stages.0.optimizer={name: adam8bit, lr: 0.003, weight_decay: 0.02}"
    assert "stages.0.fused_backward=true" in settings(found) and found["together"]["peak"] <= 1000


def test_the_cheapest_change_that_is_enough_stands_alone(written: Any, made_up: None) -> None:
    assert settings(stage_of(written("adamw"), 1700)) == ["micro_rows=2"]
    assert settings(stage_of(written("adamw"), 1550)) == ["stages.0.fused_backward=true"]  # 370 less; rows and checkpointing are not needed


def test_where_nothing_is_enough_it_says_so_with_the_least(written: Any, made_up: None, capsys: pytest.CaptureFixture[str]) -> None:
    from ingot.cli import main

    path = written("adamw")
    assert stage_of(path, 1)["together"]["fits"] is False
    assert main(["plan", str(path), "--memory", "1 B"]) == 1
    shown = capsys.readouterr().out
    assert "nothing here makes it fit; the least is" in shown and "it does NOT fit" in shown
    assert main(["plan", str(path), "--memory", "1723 B"]) == 1  # a tenth of what is given is left free, as of a recipe's cap
    shown = capsys.readouterr().out
    assert "the cheapest that fits, at" in shown and "\n  stages.0.fused_backward=true   (no clipping" in shown
    assert main(["plan", str(path), "--memory", "1 MiB"]) == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_smaller_optimizers_are_offered_beside_every_one(written: Any, made_up: None, optimizer: str) -> None:
    path = written(optimizer)
    offered = [one for one in stage_of(path, 1)["changes"] if ".optimizer" in one["setting"]]
    assert len({one["setting"] for one in offered}) == len(offered) > 0
    for one in offered:
        assert stage_of(path, 1, one["setting"])["forecast"]["peak"] == one["peak"]


def test_a_smaller_optimizer_inside_another_saves_what_was_forecast(written: Any) -> None:
    """With real forecasts: the setting as it is printed gives the model's optimizer the state that was promised."""
    path = written("muon")
    (setting,) = (
        one["setting"] for one in stage_of_first(path, pretended) if one["setting"].startswith("stages.0.optimizer.rest={name: adam8bit")
    )
    before, after = run_of(path, "model.vocabulary=50000"), run_of(path, "model.vocabulary=50000", setting)
    assert after.section.stages[0].optimizer.knobs["rest"].name == "adam8bit"
    assert after.section.stages[0].optimizer.knobs["rest"].knobs["lr"] == 0.003
    state = [forecast_stage(run, 0, 8).by_kind["optimizer_state"] for run in (before, after)]
    embedding = 50000 * 32
    # Eight bytes a weight become two, and two numbers of four bytes for each block of 256.
    assert state[0] - state[1] == pytest.approx(6 * embedding, rel=0.05)


def stage_of_first(path: Path, forecast: Any) -> list[dict[str, Any]]:
    """The changes that are offered when nothing fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "forecast_stage", forecast)
        found: list[dict[str, Any]] = stage_of(path, 1)["changes"]
        return found


@pytest.mark.parametrize("amount", ["wrong", "3 steps", "0 GiB", "80"])
def test_what_is_no_amount_of_memory_is_refused(amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ingot.cli import main

    recipe = Path(__file__).resolve().parents[2] / "recipes/text/gpt_tiny.yaml"
    assert main(["plan", str(recipe), "--tiny", "--memory", amount]) == 2
    error = capsys.readouterr().err
    assert f"--memory: wants an amount of memory such as '80 GiB', got {amount!r}" in error and "tokens" not in error
