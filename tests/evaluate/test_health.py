"""Health: what the measures are on features that are known, and the alarm when all rows are alike."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _runs import lines

import ingot
from ingot.core.resolve import spec
from ingot.evaluate.health import class_alignment, effective_rank, spread, uniformity
from ingot.objective._collapse import deviation, moments
from ingot.objective.self_distillation import SelfDistillation
from ingot.objective.wav2vec2 import Wav2Vec2


def test_known_features() -> None:
    eye = torch.eye(8, dtype=torch.float64)
    assert effective_rank(eye) == pytest.approx(8, rel=1e-4)
    one = torch.ones(8, 5, dtype=torch.float64)
    assert effective_rank(one) == pytest.approx(1, rel=1e-4) and spread(one) == pytest.approx(0) and uniformity(one) == pytest.approx(0)
    two = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert uniformity(two) == pytest.approx(-8)
    many = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert spread(many) == pytest.approx(1, abs=0.01) and uniformity(many) == pytest.approx(-4, abs=0.2) and effective_rank(many) > 62
    labels = torch.tensor([0, 0, 1, 1])
    square = torch.tensor([[1.0, 0], [0, 1], [2, 0], [3, 0]], dtype=torch.float64)
    assert class_alignment(square, labels) == pytest.approx((2 + 0) / 2) and math.isnan(class_alignment(square, torch.tensor([0, 1, 2, 3])))


def test_a_living_model_raises_no_alarm_and_a_dead_one_does(setting: Any) -> None:
    evaluator = spec("evaluate", "health").build(layout=setting.layout)
    found = setting.measure(evaluator)
    assert found["rank"] > 2 and found["spread"] > 0.1 and {"uniformity", "alignment"} < found.keys() and not list(evaluator.alarms(found))
    with torch.no_grad():
        setting.model.embedding.project.weight.zero_()
        setting.model.embedding.position.weight.zero_()
    dead = setting.measure(evaluator)
    assert len(list(evaluator.alarms(dead))) == 2 and "collapses" in next(iter(evaluator.alarms(dead)))


def test_alignment_is_of_the_views_where_there_are_some(setting: Any) -> None:
    def looks(same: bool) -> Any:
        return lambda rows: (
            [micro | {"image_1": micro["image"] if same else micro["image"].flip(0)} for micro in window]
            for window in setting.windows(rows=16)
        )

    evaluator = spec("evaluate", "health").build(layout=setting.layout)
    assert setting.measure(evaluator, looks=looks(True))["alignment"] == pytest.approx(0, abs=1e-12)
    assert setting.measure(evaluator, looks=looks(False))["alignment"] > 0.01


class Watched:
    """An objective that watches the first feature of a row."""

    def prepare(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return batch | {"units": (batch["rows"] >= 0).long() * (batch["rows"] != 3)}

    def vitals(self, model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"number": torch.stack([batch["rows"], batch["rows"] * 2], dim=1)}

    def bands(self, means: Any) -> dict[str, tuple[float, float, float]]:
        return {"low_number": (float(means["number"][0]), 10.0, 100.0), "high_number": (float(means["number"][1]), 0.0, 10.0)}


def test_what_an_objective_watches_is_averaged_over_scored_rows_and_has_bands(setting: Any) -> None:
    """20 rows in batches of eight, four of padding, row 3 not scored: the mean of the others is 187 / 19."""
    evaluator = spec("evaluate", "health").build(layout=setting.layout)
    found = setting.measure(evaluator, objective=Watched(), windows=setting.windows(20))
    assert found["low_number"] == pytest.approx(187 / 19) and found["high_number"] == pytest.approx(374 / 19)
    said = [line for line in evaluator.alarms(found) if line.startswith("what is learned")]
    assert said == [
        "what is learned collapses: low number is 9.842, below 10",
        "what is learned collapses: high number is 19.684, above 10",
    ]


def test_bands_at_known_collapses() -> None:
    """One output for all rows, uniform outputs, one entry of a codebook, targets that are all alike, and what is as it should be."""
    uniform, one = torch.full((8,), 1 / 8, dtype=torch.float64), torch.eye(8, dtype=torch.float64)[0]
    bands = SelfDistillation.bands
    value, _, most = bands(None, {"teacher_entropy": torch.tensor(math.log(8)), "taught": uniform})["teacher_entropy"]
    assert value > most == pytest.approx(0.99 * math.log(8))
    value, least, _ = bands(None, {"teacher_entropy": torch.tensor(0.0), "taught": one})["teacher_perplexity"]
    assert value == pytest.approx(1) and value < least
    alive = bands(None, {"teacher_entropy": torch.tensor(0.3), "taught": uniform})
    assert alive["teacher_perplexity"][0] == pytest.approx(8) and all(least <= value <= most for value, least, most in alive.values())

    two = SimpleNamespace(quantizer=SimpleNamespace(groups=2))
    value, least, _ = Wav2Vec2.bands(two, {"chosen": torch.stack([one, uniform])})["code_perplexity"]
    assert value == pytest.approx(1 + 8) and value > least == 4
    value, least, _ = Wav2Vec2.bands(two, {"chosen": torch.stack([one, one])})["code_perplexity"]
    assert value == pytest.approx(2) and value < least

    y = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0, 0.0]) + 3
    value, least, _ = deviation({name: found.mean(dim=0) for name, found in moments(y).items()})["target_std"]
    assert value == pytest.approx(float(y.flatten(0, 1).std(dim=0, unbiased=False).mean())) and value > least == 0.1
    there = torch.arange(7) < 3
    found = moments(y, there.expand(5, -1))
    value, _, _ = deviation({name: value.mean(dim=0) for name, value in found.items()})["target_std"]
    assert value == pytest.approx(float(y[:, :3].flatten(0, 1).std(dim=0, unbiased=False).mean()))
    value, least, _ = deviation({name: found.mean(dim=0) for name, found in moments(torch.ones(5, 7, 4)).items()})["target_std"]
    assert value < least


def test_a_teacher_without_its_center_collapses_and_the_loop_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path, any_speed: None
) -> None:
    """DINO trained twice from the same start. A center that never moves does not keep the teacher from giving all rows one output
    (section 5.3 of its paper); the loss alone, which falls to nothing, looks like success."""
    monkeypatch.chdir(tmp_path)
    settings = ["data.views=2", "data.augment=[{name: resized_crop, area: [0.4, 1.0]}, flip]", "data.train.count=64", "micro_rows=16"]
    settings += ["stages.0.budget=12 steps", "stages.0.batch=16 images", "stages.0.optimizer.lr=2e-3", "stages.0.schedule={}"]
    settings += [
        "evaluate.also=[health]",
        "evaluate.every=100%",
        "evaluate.rows=32",
        "compile=false",
        "log.tensorboard=false",
        "precision=fp32",
    ]
    runs = {}
    for name, momentum in (("guarded", 0.5), ("unguarded", 1.0)):
        recipe = repository / "recipes/vision/dino_tiny.yaml"
        runs[name] = run = ingot.build(
            ingot.load_recipe(recipe, [*settings, f"model.objective.center_momentum={momentum}", f"name={name}"], tiny=True)
        )
        run.train()
    said = {name: [line for line in lines(run, "event") if "what is learned collapses" in line["message"]] for name, run in runs.items()}
    results = {name: next(iter(lines(run, "evaluation")[-1]["results"].values())) for name, run in runs.items()}
    assert not said["guarded"] and results["guarded"]["health.teacher_perplexity"] > 3
    (alarm,) = said["unguarded"]
    assert alarm["name"] == "alarm" and alarm["step"] == 12 and "teacher perplexity is 1.0" in alarm["message"]
    assert results["unguarded"]["loss"] < 0.01 < results["guarded"]["loss"]
