"""The rows of a step, found again, are those that training was given: over sources, stages, accumulation, a stop and a resumption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _runs import StopAt, lines

import ingot
from ingot.build.run import Run
from ingot.build.seen import seen
from ingot.core.errors import UserError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STAGES = [
    {"budget": "3 steps", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 0.003}},
    {"budget": "3 steps", "batch": "5 rows", "optimizer": {"name": "adamw", "lr": 0.001}},
]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[list[int]]]]:
    """What each window that the loop took held: row numbers and tokens."""
    found: list[tuple[list[int], list[list[int]]]] = []
    windows = Run.windows

    def watched(self: Run, stream: Any, **named: Any) -> Any:
        opened = windows(self, stream, **named)
        return told(opened) if stream is self.data_of(0).train else opened

    def told(opened: Any) -> Any:
        for window in opened:
            real = [(int(row), tokens.tolist()) for micro in window for row, tokens in zip(micro["rows"], micro["tokens"]) if row >= 0]
            found.append(([row for row, _ in real], [tokens for _, tokens in real]))
            yield window

    monkeypatch.setattr(Run, "windows", watched)
    return found


def test_the_rows_of_every_step_are_those_that_the_loop_was_given(tiny_recipe: Any, given: list[Any]) -> None:
    recipe = tiny_recipe({"stages": STAGES, "micro_rows": 3, "evaluate": {"every": "100%", "rows": 1}}, name="watched")
    stopped = ingot.build(recipe)
    assert stopped.train(StopAt(2))["step"] == 3
    trained = given[:3]
    given.clear()
    run = ingot.build(recipe)
    assert run.train()["step"] == 6
    trained += given[:3]
    for step, (rows, tokens) in enumerate(trained, 1):
        found = seen(Run(run.section, run.folder), step)
        assert [one["row"] for one in found["rows"]] == rows and len(rows) == (8 if step <= 3 else 5)
        assert [one["text"] for one in found["rows"]] == [run.tokenizer.decode(row) for row in tokens]
        assert {one["source"] for one in found["rows"]} <= {"left", "right"} and "document" in found["rows"][0]["where"]


def test_a_step_that_is_not_there_and_data_that_changed_are_refused(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}}, name="short"))
    run.train()
    assert lines(run, "step")[1]["first_row"] == 8
    with pytest.raises(UserError, match="no step 7; it has 2 steps from 1 to 2, the nearest is 2"):
        seen(run, 7)
    run._data[0] = replace(run.data_of(0), identity="another")
    with pytest.raises(UserError, match="the data have changed"):
        seen(run, 1)


def test_rows_beside_held_out_ones_are_named_by_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by their place among those that are trained on."""
    monkeypatch.chdir(tmp_path)
    changes = ["data.train.count=40", "data.validation=null", "data.holdout=0.4", "name=held"]
    run = ingot.build(ingot.load_recipe(RECIPES / "vision" / "vit_tiny.yaml", changes, tiny=True))
    run.folder.mkdir(parents=True)
    line = {"kind": "step", "step": 1, "stage": 0, "first_row": 0, "batch_rows": 12, "loss": 1.0}
    (run.folder / "ledger.jsonl").write_text(json.dumps(line) + "\n")
    rows, stream = seen(run, 1)["rows"], run.data_of(0).train
    _, _, places = stream.locate(np.arange(12))
    ids = stream.sources["synthetic_images"].ids[places].tolist()
    assert [one["id"] for one in rows] == ids != places.tolist()
    assert [one["where"] for one in rows] == [f"synthetic image {id}" for id in ids]
