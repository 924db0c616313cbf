"""What the user wrote wrongly on the command line, said in their words, in text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import generate, main

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "text" / "gpt_tiny.yaml")

WRONG = {
    "nothing given": (["train"], "the following arguments are required: RECIPE"),
    "a misspelt option": (["train", RECIPE, "--tinny"], "there is no option '--tinny'. Did you mean '--tiny'?"),
    "no number": (["verify-resume", RECIPE, "--kills", "many"], "argument --kills: invalid int value: 'many'"),
    "a list that is none": (["parity", RECIPE, "--ranks", "x"], "argument --ranks: wants whole numbers above 0 such as 1,2,5, got 'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_said_in_one_line_and_as_json(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, message = WRONG[case]
    assert main(command) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.splitlines() == [
        f"ingot {command[0]}: {message}",
        f"'ingot {command[0]} --help' shows what it takes.",
    ]
    assert main([*command, "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"errors": [{"where": "", "message": message, "origin": "command line"}]}
    assert shown.err.splitlines()[0] == f"ingot {command[0]}: {message}"


def test_other_ranks_leave_the_answer_to_the_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_what_is_wrong_on_another_rank_alone_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that lacks the recipe: one line, with the rank."""
    monkeypatch.setenv("RANK", "1")
    assert main(["check", "nowhere.yaml"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "rank 1: no recipe file at nowhere.yaml\n"


def test_mixed_faults_come_in_one_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", RECIPE, "--tiny", "seed=x", "model.encoder.mixer.heads=5", "stages.0.budget=0 steps", "--json"]) == 2
    shown = capsys.readouterr()
    assert [error["where"] for error in json.loads(shown.out)["errors"]] == ["seed", "model.encoder.mixer", "stages.0.budget"]
    assert shown.err.splitlines()[-1] == "3 errors."


def test_a_run_with_another_recipe_is_one_error(tiny_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ingot
    from ingot.core.recipe import dump

    recipe = tiny_recipe({"stages": {0: {"budget": "1 steps"}}, "evaluate": {"rows": 1}})
    path = tmp_path / "tiny.yaml"
    path.write_text(dump(recipe.tree), encoding="utf-8")
    ingot.build(recipe).train()
    capsys.readouterr()
    assert main(["train", str(path), "stages.0.optimizer.lr=0.5", "--json"]) == 2
    shown = capsys.readouterr()
    first, second, last = shown.err.splitlines()
    assert "exists with another recipe" in first and second == "  stages.0.optimizer.lr: 0.003 -> 0.5" and last.startswith("1 error;")
    (error,) = json.loads(shown.out)["errors"]
    assert error["hint"] == "stages.0.optimizer.lr: 0.003 -> 0.5"


def test_a_wrong_evaluator_is_a_wrong_option(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    assert main(["evaluate", "runs/gpt_tiny", "--with", "nope", "--with", "{name: knn, k: none}"]) == 2
    first, second, *_ = [line for line in capsys.readouterr().err.splitlines() if line.startswith("--with")]
    assert first.startswith("--with: no part named 'nope' in evaluate") and second.startswith("--with: k: wants a whole number")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_not_shown_what_it_would_obey(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate.sys.stdout, "isatty", lambda: terminal)
    text = "a\x1b[2Jb\x07\tc\nd\r\x7f\x9b1m é 東 \\"
    assert generate.shown(text) == ("a\\x1b[2Jb\\x07\tc\nd\\r\\x7f\\x9b1m é 東 \\" if terminal else text)
