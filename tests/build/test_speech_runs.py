"""Runs on sound: an averaged teacher, a scheduled temperature and the codebook's averages survive a stop to the bit; accumulation changes
nothing but rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import StopAt

import ingot

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "speech"
SMALL = [
    "stages.0.budget=4 steps",
    "evaluate.also=[]",
    "evaluate.every=100%",
    "data.train.count=40",
    "stages.0.batch=8 clips",
    "compile=false",
    "log.tensorboard=false",
    "checkpoint.every=1 steps",
]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_speed: None) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(recipe: str, name: str, stop: int | None = None, *more: str) -> Any:
        run = ingot.build(ingot.load_recipe(RECIPES / f"{recipe}.yaml", [*SMALL, f"name={name}", *more], tiny=True))
        run.train(StopAt(stop) if stop else None)
        return run

    return call


@pytest.mark.parametrize("recipe", ["wav2vec2_tiny", "data2vec_audio"])
def test_a_stop_and_accumulation_change_nothing(train: Any, recipe: str) -> None:
    straight = train(recipe, "straight", None, "precision=fp64", "micro_rows=8")
    train(recipe, "broken", 2, "precision=fp64", "micro_rows=8")
    resumed, split = (
        train(recipe, "broken", None, "precision=fp64", "micro_rows=8"),
        train(recipe, "split", None, "precision=fp64", "micro_rows=3"),
    )
    wanted, state, other = straight.model.state_dict(), resumed.model.state_dict(), split.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in wanted.items())
    for name, value in wanted.items():
        assert float((other[name] - value).norm()) <= 1e-6 * float(value.norm()) + 1e-12, name  # a key's bias has no gradient but rounding
    if recipe == "wav2vec2_tiny":
        quantizer = resumed.model.objective.quantizer
        assert (
            resumed.model.objective.temperature < 2
            and bool(quantizer.seen)
            and not torch.allclose(quantizer.usage, torch.full_like(quantizer.usage, 1 / 8))
        )
        lines = [json.loads(line) for line in (resumed.folder / "ledger.jsonl").read_text().splitlines()]
        assert any("code_perplexity" in json.dumps(line) for line in lines)
    else:
        teacher, student = resumed.model.objective.teacher.encoder.state_dict(), resumed.model.encoder.state_dict()
        assert not any(torch.equal(teacher[name], student[name]) for name in student if name.endswith("query.weight"))
