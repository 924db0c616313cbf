"""From a ladder to a plan: ingot ladder, fit of run folders, page, predict, where two fits cross, the rest of a run, plan with a budget."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from _small import small_recipe

from ingot.cli import main

LADDER = """
recipe: base.yaml
sizes: {model.width: [8, 12, 16, 20, 24], model.encoder.mixer.heads: 2}
base_width: 16
tokens_per_parameter: 2
evaluations: 2
"""


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    draw, words = (
        random.Random(0),
        [
            "the",
            "of",
            "and",
            "a",
            "to",
            "in",
            "is",
            "you",
            "that",
            "it",
            "he",
            "was",
            "for",
            "on",
            "are",
            "as",
            "with",
            "his",
            "they",
            "at",
        ],
    )
    (folder / "corpus").mkdir()
    for number in range(40):
        (folder / "corpus" / f"{number}.txt").write_text(" ".join(draw.choices(words, k=60)))
    (folder / "base.yaml").write_text(small_recipe(batch=128, hooks="[]", rows=8, micro_rows=4))
    (folder / "steps.yaml").write_text(LADDER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["ladder", "steps.yaml", "--jobs", "1"]) == 0
    return folder


@pytest.fixture
def answer(climbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(climbed)

    def ask(*words: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*words, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return ask


def test_a_page_with_every_plot(climbed: Path) -> None:
    page = (climbed / "runs" / "ladders" / "steps" / "ladder.html").read_text()
    assert (
        page.count("<svg") == 2
        and "Held out" in page
        and "http" not in page.split("<main>")[1].split("</main>")[0]
        and "nan" not in page.split("<main>")[1].split("</main>")[0]
    )


def test_dry_run_starts_nothing(answer: Any) -> None:
    found = answer("ladder", "steps.yaml", "seeds=2", "--dry-run")
    assert [one["runs"] for one in found["rungs"]] == [2] * 5 and [one["held_out"] for one in found["rungs"]] == [False] * 4 + [True]


def test_fit_from_run_folders_is_that_of_the_points(answer: Any, climbed: Path) -> None:
    """The ladder's own points and its run folders tell the same."""
    hold = ("--knob", "over=flop", "--no-backtest", "--draws", "0")
    from_runs, from_csv = (answer("fit", "power", source, *hold) for source in ("runs/ladders/trials", "runs/ladders/steps/points.csv"))
    assert from_runs["estimates"] == pytest.approx(from_csv["estimates"])
    answer("fit", "power", "runs/ladders/trials", "--knob", "over=flop", "--report", "fit.html")
    assert "<svg" in (climbed / "fit.html").read_text()


def test_held_out_rows_are_predicted_not_fitted(answer: Any) -> None:
    found = answer("fit", "power", "runs/ladders/steps/points.csv", "--knob", "over=flop", "--hold-out", "held_out>0", "--draws", "20")
    assert found["error"]["n"] == 4 and len(found["held_out"]) == 1 and found["held_out"][0]["reach"] > 1


def test_plan_buys_the_budget(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "base.yaml", "--budget", "1e12flops", "--fit", "runs/ladders/steps/fit.json")
    assert main([*words]) == 2 and "nothing tells how wrong" in capsys.readouterr().err
    found = answer(*words, "--untested")
    best, points = found["best"], answer("ladder", "steps.yaml", "--dry-run")["rungs"]
    assert best["choice"]["params"] > max(one["params"] for one in points) and found["settings"]["model.width"] > 24
    assert found["settings"]["model.width"] % found["settings"]["model.encoder.mixer.heads"] == 0
    assert float(found["settings"]["stages.0.budget"].split()[0]) == pytest.approx(best["choice"]["tokens"], rel=1e-3)
    assert found["parameters"] == pytest.approx(best["choice"]["params"], rel=0.1) and found["flops"] == pytest.approx(1e12, rel=0.1)
    for flag in ("--price", "--memory", "--from"):
        assert main([*words, flag, "1"]) == 2 and f"{flag} says nothing with --budget" in capsys.readouterr().err
    staged = str(Path(__file__).resolve().parents[2] / "recipes" / "growth" / "staged.yaml")
    assert main(["plan", staged, *words[2:]]) == 2 and "has 4 stages" in capsys.readouterr().err
    assert main(["plan", "base.yaml", "--untested"]) == 2 and "--untested goes with --budget" in capsys.readouterr().err
    for price in ("nan", "-1"):
        assert main(["plan", "base.yaml", "--price", price]) == 2 and "--price: wants a price of at least 0" in capsys.readouterr().err
    assert "past" in best and best["reach"] > 1


def test_where_two_fits_cross(answer: Any, climbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, A, alpha in (("one", 20.0, 0.1), ("two", 200.0, 0.2)):
        rows = [f"{10.0**power},{1 + A * 10.0 ** (-alpha * power)}" for power in range(6, 16)]
        (climbed / f"{name}.csv").write_text("\n".join(["flop,loss", *rows]))
        answer("fit", "power", f"{name}.csv", "--knob", "over=flop", "--save", f"{name}.json", "--draws", "20")
    found = answer("predict", "one.json", "--against", "two.json")
    assert found["at"] == pytest.approx(1e10, rel=0.1) and found["lower_before"] == "first"
    assert main(["predict", "one.json", "two.json"]) == 2 and "two.json" in capsys.readouterr().err


def test_the_end_of_a_run(answer: Any, climbed: Path) -> None:
    run = climbed / "half"
    run.mkdir()
    steps = [
        {"kind": "step", "step": step, "loss": 2 + 10 * step**-0.4, "lr": 0.01, "tokens": 100 * step, "flops": 1e6 * step}
        for step in range(5, 1001, 5)
    ]
    (run / "ledger.jsonl").write_text("\n".join(map(json.dumps, steps)))
    (run / "recipe.yaml").write_text("stages: [{budget: 200k tokens}]\n")
    found = answer("predict", "--run", "half", "--at", "100%")
    assert found["at"] == 2000 and found["value"] == pytest.approx(2 + 10 * 2000**-0.4, rel=0.005) and found["past"]["source"] == "this run"
