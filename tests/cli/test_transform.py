"""``ingot transform``: a checkpoint becomes another, whose run is used like any other; every mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.cli import main


@pytest.fixture
def small(tiny_recipe: Any) -> Path:
    ingot.build(tiny_recipe({"stages": {0: {"budget": "6 steps"}}}, name="small")).train()
    return Path("runs/small")


def test_the_result_is_a_run_that_goes_on(small: Path, tiny_recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """From the middle of its budget, with its optimizer state; and its weights start another run."""
    middle = str(small / "checkpoints" / "step-00000003")
    assert (
        main(["transform", middle, "--with", "identity_depth", "--with", "widen width=2 split=0.2", "--out", "runs/large", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in found["transforms"]] == ["identity_depth", "widen"]
    manifest = json.loads((Path(found["checkpoint"]) / "manifest.json").read_text())["manifest"]
    assert manifest["parents"][0]["path"] == middle and [line["name"] for line in manifest["lineage"]] == ["identity_depth", "widen"]
    before = ingot.open_run(small).evaluate(Path(middle), rows=8)
    grown = ingot.open_run("runs/large")
    assert grown.section.model.width == 64 and grown.section.model.encoder.knobs["depth"] == 4
    for source, result in grown.evaluate(rows=8).items():
        assert result["loss"] == pytest.approx(before[source]["loss"], abs=1e-5)
    assert main(["train", "runs/large/recipe.yaml", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["step"] == 6
    start = tiny_recipe(
        {"model": {"width": 64, "encoder": {"depth": 4, "mixer": {"heads": 4}}}, "stages": {0: {"budget": "1 steps"}}}, name="next"
    )
    assert ingot.build(start, start_from="runs/large").train()["step"] == 1
    assert main(["lineage", "runs/large"]) == 0
    shown = capsys.readouterr().out
    assert "widen width=2" in shown and f"from checkpoint {middle}" in shown


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--with", "stak factor=2"], "Did you mean 'stack'?"),
        (["--with", "stack factor=1"], "at least 2"),
        (["--with", "stack deep"], "key=value"),
        (["--with", "stack depth=4"], "takes no 'depth'"),
        (["--with", "stack 'factor"], "not well quoted"),
    ],
)
def test_mistakes(small: Path, capsys: pytest.CaptureFixture[str], given: list[str], words: str) -> None:
    assert main(["transform", str(small), *given, "--out", "runs/other"]) == 2
    assert words in capsys.readouterr().err and not Path("runs/other").exists()


def test_what_exists_is_not_overwritten(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transform", str(small), "--with", "stack", "--out", str(small)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["transform", "runs/none", "--with", "stack", "--out", "runs/other"]) == 2
    assert "no run at runs/none" in capsys.readouterr().err


def test_the_next_command_goes_on_wherever_the_run_lies(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the middle: what was spent is not spent again, and no run of the same name appears under runs/."""
    middle = str(small / "checkpoints" / "step-00000003")
    assert main(["transform", middle, "--with", "identity_depth", "--out", "else where/large"]) == 0
    said = capsys.readouterr().out
    assert "ingot train 'else where/large/recipe.yaml' " in said
    assert main(["train", "else where/large/recipe.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 6
    assert not Path("runs/large").exists()
    steps = [
        line["step"] for line in map(json.loads, Path("else where/large/ledger.jsonl").read_text().splitlines()) if line["kind"] == "step"
    ]
    assert min(steps) == 4


def test_an_average_that_is_left_behind_is_said(tiny_recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ingot.build(tiny_recipe({"stages": {0: {"budget": "3 steps", "hooks": [{"name": "ema", "decay": 0.9}]}}}, name="small")).train()
    assert main(["transform", "runs/small", "--with", "identity_depth", "--out", "runs/large"]) == 0
    assert "the hook 'ema' starts afresh" in capsys.readouterr().out
