"""Whole races, run: a recipe and a program against a baseline; the control; what is shared; what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingot.core.errors import RunError, UserError
from ingot.race.conduct import conduct, forecast
from ingot.race.pool import Pool, Processes
from ingot.race.spec import Race
from ingot.race.trials import read_json, read_lines

Make = Callable[..., Race]
PROGRAM = """
import json, os, sys
import numpy as np
arm = {name.removeprefix("INGOT_ARM_").lower(): value for name, value in os.environ.items() if name.startswith("INGOT_ARM_")}
about = json.load(open(os.path.join(arm["data"], "data.json")))
rows = np.load(os.path.join(arm["data"], "train.npy"))
held = {name: np.load(os.path.join(arm["data"], f"validation_{name}.npy")) for name in about["validation"]}
assert arm["protocol"] == "1" and arm["unit"] == "tokens" and rows.shape == (about["rows"], about["sequence"])
counts = np.full(about["vocabulary"], 0.5)
spent, budget, per = 0, float(arm["budget"]), about["sequence"]
print("a line for the log")
for place in range(0, int(budget) // per):
    counts += np.bincount(rows[place % len(rows)], minlength=len(counts)) * float(arm["factor"])
    spent += per
    if place % max(1, int(budget) // per // int(arm["evaluations"])) == 0 or spent + per > budget:
        logs = -np.log(counts / counts.sum())
        loss = {name: float(logs[tokens[:, 1:]].sum()) for name, tokens in held.items()}
        print(json.dumps({"tokens": spent, "flops": 10.0 * spent, "evaluation": {name: {"loss": loss[name] / tokens[:, 1:].size, "bits_per_byte": loss[name] / np.log(2) / about["validation"][name]["bytes"]} for name, tokens in held.items()}}), flush=True)
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool for all races of this file."""
    workers = Processes(2)
    yield workers
    workers.close()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "unigram.py").write_text(PROGRAM)
    return tmp_path / "unigram.py"


def test_a_recipe_and_a_program_race(make_race: Make, program: Path, pool: Pool, tmp_path: Path) -> None:
    race = make_race(f"contenders: {{unigram: {{command: '{sys.executable} unigram.py', about: counts words}}}}\ntuning: {{trials: 2}}")
    said: list[str] = []
    verdict = conduct(race, folder=tmp_path / "races", results=tmp_path / "results", pool=pool, say=said.append)
    arms = verdict["arms"]
    assert set(arms) == {"baseline", "other", "unigram", "control"}
    for arm in arms.values():
        assert arm["spent"]["tokens"] == pytest.approx(5120, rel=0.01) and not arm["off_budget"] and len(arm["finals"]) == 3
        assert arm["curve"]["value"][0] > arm["curve"]["value"][-1]
    assert arms["other"]["side_by_side"] and arms["unigram"]["side_by_side"], "all ran in this conduct"
    assert all(arm["spent"]["cpu_seconds"] > 0 for arm in arms.values())
    assert arms["unigram"]["declared"] and arms["unigram"]["verdict"] in ("worse", "better") and arms["unigram"]["peak_memory"] > 1e6
    assert arms["baseline"]["tuning"]["tokens"] == pytest.approx(2 * 5120, rel=0.01) and arms["unigram"]["tuning"][
        "tokens"
    ] == pytest.approx(2 * 5120, rel=0.01)
    assert len(said) == 2 * 3 + 3 * 4 and said[-1].startswith("18/18")
    assert (tmp_path / "races" / "race" / "race.html").stat().st_size > 20_000
    again = conduct(race, folder=tmp_path / "races", results=tmp_path / "results", pool=pool, say=said.append)
    assert len(said) == 18, "nothing was run twice"
    assert again["arms"] == verdict["arms"] and len(list(read_lines(tmp_path / "results" / "race.jsonl"))) == 1
    assert "unigram" in verdict["sentence"]


def test_arms_share_rows_initialization_and_evaluation(make_race: Make, pool: Pool, tmp_path: Path) -> None:
    race = make_race(
        "contenders: {same: {set: {stages: {0: {optimizer: {weight_decay: 0.1}}}}}, longer: {set: {data: {sequence: 64}}}}\ncontrol: false\nseeds: 2"
    )
    verdict = conduct(race, folder=tmp_path / "races", results=None, pool=pool, say=lambda line: None)
    arms = verdict["arms"]
    starts = {name: [curve["value"][0] for curve in arm["curves"]] for name, arm in arms.items()}
    assert starts["baseline"] == starts["same"], "the same weights on the same rows"
    assert starts["baseline"][0] != starts["baseline"][1]
    assert starts["longer"] == starts["baseline"], "evaluated on the baseline's rows, although it trains on longer ones"
    assert any("longer" in note and "sequence" in note for note in verdict["notes"])


def test_another_objective_is_judged_by_the_baselines(make_race: Make, pool: Pool, tmp_path: Path) -> None:
    mask = "{name: masked_lm, rate: RATE}"
    race = make_race(
        "contenders: {more: {set: {model: {objective: "
        + mask.replace("RATE", "0.4")
        + "}}}}\nset: {model: {objective: "
        + mask.replace("RATE", "0.15")
        + "}}\ncontrol: false\nseeds: 2"
    )
    verdict = conduct(race, folder=tmp_path / "races", results=None, pool=pool, say=lambda line: None)
    arms = verdict["arms"]
    assert verdict["metric"] == "loss"
    assert [curve["value"][0] for curve in arms["baseline"]["curves"]] == [curve["value"][0] for curve in arms["more"]["curves"]]
    assert arms["baseline"]["mean"] != arms["more"]["mean"]


def test_a_run_that_diverges_is_a_result(make_race: Make, pool: Pool, tmp_path: Path) -> None:
    race = make_race(
        "contenders: {wild: {set: {anomaly: {policy: stop}, stages: {0: {optimizer: {name: sgd, lr: 1.0e+30}, hooks: []}}}}}\ncontrol: false\nseeds: 2"
    )
    verdict = conduct(race, folder=tmp_path / "races", results=None, pool=pool, say=lambda line: None)
    assert verdict["arms"]["wild"]["verdict"] == "failed" and len(verdict["arms"]["wild"]["failed"]) == 2
    assert "wild failed in 2 of 2 runs" in verdict["sentence"]


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("print('nothing')", UserError, "printed no evaluation"),
        ("import os; os.kill(os.getpid(), 15)", UserError, "asked to end"),
    ],
)
def test_a_program_that_does_not_speak_the_protocol(
    make_race: Make, pool: Pool, tmp_path: Path, code: str, error: type[Exception], said: str
) -> None:
    (tmp_path / "bad.py").write_text(code)
    race = make_race(f"contenders: {{bad: {{command: '{sys.executable} bad.py'}}}}\ncontrol: false\nseeds: 2")
    with pytest.raises((error, RunError), match=said):
        conduct(race, folder=tmp_path / "races", results=None, pool=pool, say=lambda line: None)


def test_a_metric_that_no_evaluation_gives_ends_the_race_at_the_first(make_race: Make, pool: Pool, tmp_path: Path) -> None:
    race = make_race("control: false", "metric=wer.wer")
    with pytest.raises((UserError, RunError), match=r"metric: the evaluation gave no wer\.wer; it gave bits_per_byte, loss"):
        conduct(race, folder=tmp_path / "races", results=None, pool=pool, say=lambda line: None)
    steps = [line for path in tmp_path.glob("races/trials/*/run/ledger.jsonl") for line in read_lines(path) if line["kind"] == "step"]
    assert not steps, "nothing was trained"


def test_data_that_cannot_be_read_is_refused_before_any_trial(make_race: Make, pool: Pool, tmp_path: Path) -> None:
    race = make_race("set: {data: {train: {name: text_files, paths: [nowhere]}}}")
    with pytest.raises(UserError, match="nowhere"):
        conduct(race, folder=tmp_path / "races", results=None, pool=pool)
    assert not (tmp_path / "races" / "trials").exists()


def test_a_budget_in_flops_that_a_few_steps_miss_is_refused_before_any_trial(make_race: Make, pool: Pool, tmp_path: Path) -> None:
    per_step = forecast(make_race(), folder=tmp_path / "races", jobs=1)["arms"]["baseline"]["flops"] / 20
    race = make_race(f"budget: {3.4 * per_step:.6g} flops")
    with pytest.raises(UserError, match=r"baseline: budget[\s\S]*more than 1 %"):
        conduct(race, folder=tmp_path / "races", results=None, pool=pool)
    assert not (tmp_path / "races" / "trials").exists()


def test_a_dry_run_starts_nothing(make_race: Make, tmp_path: Path) -> None:
    found = forecast(make_race("tuning: {trials: 3}"), folder=tmp_path / "races", jobs=2)
    assert found["trials"] == 2 * 3 + 3 * 3 and found["done"] == 0 and found["seconds"] > 0
    assert found["arms"]["baseline"]["flops"] > 0 and not (tmp_path / "races" / "trials").exists()


def test_changed_data_makes_other_trials(make_race: Make, pool: Pool, tmp_path: Path) -> None:
    race = make_race("control: false\nseeds: 2")
    quiet = {"folder": tmp_path / "races", "results": None, "pool": pool, "say": lambda line: None}
    first = conduct(race, **quiet)
    (tmp_path / "corpus" / "00.txt").write_text("something else entirely " * 50)
    second = conduct(race, **quiet)
    assert first["arms"]["baseline"]["finals"] != second["arms"]["baseline"]["finals"]


def test_results_hold_no_paths(make_race: Make, pool: Pool, tmp_path: Path) -> None:
    conduct(make_race("seeds: 2"), folder=tmp_path / "races", results=tmp_path / "results", pool=pool, say=lambda line: None)
    assert str(tmp_path) not in (tmp_path / "results" / "race.jsonl").read_text()
    kept = read_json(tmp_path / "races" / "race" / "verdict.json")
    assert kept is not None and json.dumps(kept["arms"])
