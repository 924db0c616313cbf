"""A run keeps the tokenizer it began with, and one that has not begun keeps nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.build.run import open_run
from ingot.core.errors import UserError

BPE = {"data": {"tokenizer": {"name": "bpe", "vocabulary": 300}}, "stages": {0: {"budget": "2 steps"}}}


def figures(path: str = "runs/tiny") -> tuple[Any, str]:
    """What the run's newest checkpoint measures and writes."""
    run = open_run(path)
    return run.evaluate(rows=4), "".join(run.generate("the of", tokens=6))


def test_other_texts_do_not_change_the_tokenizer_of_a_run(tiny_recipe: Any) -> None:
    ingot.build(tiny_recipe(BPE)).train()
    before = open_run("runs/tiny")
    ids = before.data_of(0).tokenizer.encode(["the of and"])[0].tolist()
    for number, path in enumerate(Path("left").glob("*.txt")):
        path.write_text("quagga zebra onager kiang " * (number + 9))
    after = open_run("runs/tiny")
    assert after.data_of(0).tokenizer.encode(["the of and"])[0].tolist() == ids
    assert after.data_of(0).tokenizer.identity == before.tokenizer.identity


def test_without_its_texts_a_run_still_writes(tiny_recipe: Any) -> None:
    ingot.build(tiny_recipe(BPE)).train()
    _, text = figures()
    for folder in ("left", "right", ".ingot"):
        shutil.rmtree(folder)
    assert "".join(open_run("runs/tiny").generate("the of", tokens=6)) == text
    with pytest.raises(UserError, match="left"):
        open_run("runs/tiny").evaluate()


@pytest.mark.parametrize("tokenizer", ["bytes", {"name": "bpe", "vocabulary": 300}])
def test_the_copy_is_the_same_tokenizer(tiny_recipe: Any, tokenizer: Any) -> None:
    recipe = tiny_recipe({"data": {"tokenizer": tokenizer}, "stages": {0: {"budget": "2 steps"}}})
    run = ingot.build(recipe)
    identity = run.tokenizer.identity
    run.train()
    assert open_run("runs/tiny").tokenizer.identity == identity == open_run("runs/tiny").data_of(0).tokenizer.identity


def test_a_folder_without_a_checkpoint_hands_nothing_down(tiny_recipe: Any) -> None:
    """Killed before its first checkpoint, then started with another vocabulary."""
    ingot.build(tiny_recipe(BPE)).train()
    shutil.rmtree("runs/tiny/checkpoints")
    run = ingot.build(tiny_recipe(BPE, {"data": {"tokenizer": {"vocabulary": 320}}}))
    assert run.vocabulary == run.data_of(0).tokenizer.vocabulary == 320
    assert run.train()["step"] == 2


def test_a_stage_on_other_texts_keeps_the_tokenizer(tiny_recipe: Any) -> None:
    stages = [{"budget": "1 steps", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 1e-3}}] * 2
    other = {"train": {"name": "text_files", "paths": ["right"]}, "holdout": 0.2, "sequence": 32}
    run = ingot.build(tiny_recipe({**BPE, "stages": [stages[0], stages[1] | {"data": other}]}))
    assert run.data_of(1).tokenizer.identity == run.data_of(0).tokenizer.identity
    assert run.train()["step"] == 2
