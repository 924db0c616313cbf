"""Annotators between stages: units from cepstra, then from a layer; a run that is stopped goes on to the bit and is evaluated with them."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _runs import StopAt

import ingot
from ingot.build import annotate, compile_probe
from ingot.build.check import check
from ingot.core.errors import RunError, UserError
from ingot.core.recipe import load

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "speech" / "hubert_tiny.yaml"
SMALL = [
    "stages.0.budget=2 steps",
    "stages.1.budget=3 steps",
    "evaluate.also=[]",
    "evaluate.every=100%",
    "data.train.count=40",
    "stages.0.batch=8 clips",
    "stages.1.batch=8 clips",
    "precision=fp32",
    "compile=false",
    "log.tensorboard=false",
    "checkpoint.every=1 steps",
]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_speed: None) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(name: str, stop: int | None = None, *more: str) -> Any:
        run = ingot.build(ingot.load_recipe(RECIPE, [*SMALL, f"name={name}", *more], tiny=True))
        run.train(StopAt(stop) if stop else None)
        return run

    return call


def test_two_rounds_of_units_resume_to_the_bit(train: Any) -> None:
    straight = train("straight")
    assert straight.model.objective.embedding.module() is straight.model.embedding  # where the new objective looks, on the device
    events = [json.loads(line)["message"] for line in (straight.folder / "ledger.jsonl").read_text().splitlines() if '"annotate"' in line]
    assert len(events) == 2 and all("found 12 units in 64 clips" in event for event in events)
    folders = sorted(Path(".ingot/annotations").iterdir())
    assert len(folders) == 2  # units of a layer are other units
    values = [np.load(next(folder.glob("*.values.npy"))) for folder in folders]
    assert values[0].max() < 12 and len(set(values[0].tolist())) > 3 and len(set(values[1].tolist())) > 3

    train("broken", 3)
    resumed = train("broken")
    state = resumed.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in straight.model.state_dict().items())
    again = ingot.build(ingot.load_recipe(RECIPE, [*SMALL, "name=straight"], tiny=True)).evaluate()
    assert again["synthetic_audio"]["loss"] == pytest.approx(straight.evaluate()["synthetic_audio"]["loss"])

    train("gone", 3)
    shutil.rmtree(".ingot/annotations")
    with pytest.raises(RunError, match="is gone"):
        train("gone")


def test_a_disk_that_fills_while_units_are_kept_is_one_line(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = np.save

    def save(path: Path, values: np.ndarray, **more: Any) -> None:
        if path.name.endswith("values.npy"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, values, **more)

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(RunError) as caught:
        train("full")
    assert "annotations" in str(caught.value) and str(caught.value).endswith("cannot be written: No space left on device")
    assert not list(Path(".ingot/annotations").iterdir())


def test_centers_are_found_from_the_clips_that_are_trained_on(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, values = [], annotate._values

    def noted(run: Any, part: Any, source: Any, ids: np.ndarray) -> Any:
        asked.append(ids.tolist())
        return values(run, part, source, ids)

    monkeypatch.setattr(annotate, "_values", noted)
    run = train("held", 1, "data.validation=null", "data.holdout=0.3")
    held = next(iter(run.data_of(0).validation["synthetic_audio"].sources.values())).ids.tolist()
    assert len(held) > 3 and sorted(asked[0] + held) == asked[1] == list(range(40))


def test_the_probe_of_compilation_reads_rows_with_their_units(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_probe, "_missing", lambda run: "")
    run = train("probed", 1, "compile=auto")
    assert "too short to win back" in run.choices["compile_reason"]
    events = [json.loads(line)["message"] for line in (run.folder / "ledger.jsonl").read_text().splitlines() if '"event"' in line]
    assert [words for event in events for words in ("found 12 units", "reused 12 units") if words in event] == [
        "found 12 units",
        "reused 12 units",
    ]


def test_units_are_asked_for_and_counted_alike() -> None:
    without = load(RECIPE, ["stages.0.annotate=null"], tiny=True)
    assert any("set stages.0.annotate" in str(problem) for problem in check(without)[1])
    other = load(RECIPE, ["stages.1.annotate.clusters=13"], tiny=True)
    assert any("annotated with 13" in str(problem) for problem in check(other)[1])


def test_clips_that_the_annotator_of_another_stage_never_heard_are_refused_at_the_start(
    tmp_path: Path, monkeypatch: Any, any_speed: None
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(name: str, **other: int) -> Any:
        recipe = ingot.load_recipe(RECIPE, [*SMALL, f"name={name}"], tiny=True)
        stage, data = recipe.tree["stages"][1], copy.deepcopy(recipe.tree["data"])
        del stage["annotate"], stage["objective"]
        stage["data"] = data | {"train": data["train"] | other, "augment": []}
        return ingot.build(recipe)

    assert run("same").train()["reason"] == "finished"
    with pytest.raises(UserError, match=r"stages\.1\.data: kmeans of stage 0 finds units in the clips of its own stage"):
        run("others", seed=7).train()


def test_a_stage_may_grow_and_be_annotated(train: Any) -> None:
    """Growing asks for rows of the stage, which have their units then."""
    run = train("grown", None, "stages.0.transforms=[stack]", "stages.1.transforms=[stack]")
    assert run.graph.encoder.knobs["depth"] == 8 and run.program.step == 5
