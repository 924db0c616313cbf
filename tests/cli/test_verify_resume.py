"""verify-resume and parity: they pass on a sound recipe, and they notice what is not."""

from __future__ import annotations

import json
import random
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ingot.build.parity import worst_difference
from ingot.cli import main
from ingot.cli._mortal import Attempt, Counter
from ingot.cli._output import Output
from ingot.cli.verify_resume import Trial

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "text" / "gpt_tiny.yaml")


def trial(folder: Path) -> Trial:
    """Two equal runs of two steps."""
    for which in ("straight", "killed"):
        run = folder / which / "x"
        checkpoint = run / "checkpoints" / "step-00000002"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
        save_file(
            {"a": torch.tensor([1.0, float("nan")]), "b": torch.zeros(2, 2, dtype=torch.bfloat16)}, checkpoint / "shard-00000.safetensors"
        )
        (run / "ledger.jsonl").write_text(
            "".join(json.dumps({"kind": "step", "step": step, "loss": 0.5, "seconds": hash(which)}) + "\n" for step in (1, 2))
        )
    return Trial(Namespace(), folder, "x", Output(json=True))


def test_equal_runs_are_equal_whatever_they_took(tmp_path: Path) -> None:
    found = trial(tmp_path)
    assert found.compare() == [] and found.tensors == 2


def test_one_bit_is_noticed(tmp_path: Path) -> None:
    found = trial(tmp_path)
    path = tmp_path / "killed" / "x" / "checkpoints" / "step-00000002" / "shard-00000.safetensors"
    save_file({"a": torch.tensor([1.0000001, float("nan")]), "b": torch.zeros(2, 2, dtype=torch.bfloat16)}, path)
    assert found.compare() == ["tensor shard-00000.safetensors:a differs"]


def test_another_loss_or_step_is_noticed(tmp_path: Path) -> None:
    found = trial(tmp_path)
    ledger = tmp_path / "killed" / "x" / "ledger.jsonl"
    ledger.write_text(
        ledger.read_text().replace('"step": 2, "loss": 0.5', '"step": 2, "loss": 0.25') + json.dumps({"kind": "step", "step": 3}) + "\n"
    )
    assert found.compare() == ["steps [3] are in one ledger only", "step 2: loss 0.5 became 0.25"]


def test_writes_below_checkpoints_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []
    monkeypatch.setattr("os.kill", lambda process, number: killed.append(number))
    counter = Counter(2)
    counter("open", ("runs/x/checkpoints/a", "r", 0))
    counter("open", ("elsewhere/a", "w", 1))
    counter("os.mkdir", ("runs/x/checkpoints/.step", 0, -1))
    assert counter.seen == 1 and not killed
    counter("open", ("runs/x/checkpoints/a", None, 0o1101))
    assert counter.seen == 2 and len(killed) == 1


def test_nothing_counts_before_it_is_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []
    monkeypatch.setattr("os.kill", lambda process, number: killed.append(number))
    answers = iter([False, True])
    counter = Counter(2, lambda: next(answers))
    for _ in range(2):
        counter("os.mkdir", ("runs/x/checkpoints/a", 0, -1))
    assert counter.seen == 1 and not killed
    counter("os.mkdir", ("runs/x/checkpoints/a", 0, -1))
    assert counter.seen == 2 and len(killed) == 1


def kinds(*names: str) -> str:
    return "".join(json.dumps({"kind": name, "step": index}) + "\n" for index, name in enumerate(names))


def test_only_whole_lines_behind_the_own_start_are_a_process_own(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    assert Attempt(ledger).steps() == 0
    ledger.write_text(kinds("start", "step", "step"))
    attempt = Attempt(ledger)
    for added, steps, ended in (
        ((), 0, False),
        (("start",), 0, False),
        (("start", "event", "step"), 1, False),
        (("start", "step", "step", "end"), 2, True),
    ):
        ledger.write_text(kinds("start", "step", "step", *added))
        assert (attempt.steps(), attempt.ended()) == (steps, ended), added
    ledger.write_text(kinds("start", "step", "start", "step") + '{"kind": "step", "st')  # resuming has cut off a step
    assert attempt.steps() == 1


LATE = """
import json, sys, time
with open(sys.argv[1], "a", buffering=1) as ledger:
    time.sleep(0.3)
    ledger.write(json.dumps({"kind": "start", "progress": {"total_steps": 3}}) + "\\n")
    time.sleep(0.3)
    for step in range(4, 4 + int(sys.argv[2])):
        ledger.write(json.dumps({"kind": "step", "step": step}) + "\\n")
    if sys.argv[3] == "stays":
        time.sleep(60)
    ledger.write(json.dumps({"kind": "end", "step": step}) + "\\n")
"""


def late(folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int, then: str) -> Trial:
    """A trial whose processes resume at step 3 of a ledger that is at step 9, and make so many steps after a while."""
    found = Trial(Namespace(), folder, "x", Output(json=True), runs=["killed"], steps=20, saves=2, writes=8)
    ledger = folder / "killed" / "x" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text(kinds("start", *["step"] * 9))
    command = [sys.executable, "-c", LATE, str(ledger), str(steps), then]
    monkeypatch.setattr(found, "command", lambda which, fatal=0: command)
    return found


def test_a_kill_waits_for_a_step_of_the_process_it_strikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = late(tmp_path, monkeypatch, 1, "stays")
    monkeypatch.setattr(random.Random, "randint", lambda self, low, high: low)
    assert found.strike(False, 20, random.Random(0))
    (kill,) = found.kills
    assert (kill["resumed_at"], kill["steps_this_attempt"]) == (3, 1)


def test_a_run_that_ends_first_is_no_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = late(tmp_path, monkeypatch, 1, "ends")
    monkeypatch.setattr(random.Random, "randint", lambda self, low, high: 2)
    assert not found.strike(False, 1, random.Random(0)) and not found.kills
    assert not found.strike(True, 1, random.Random(0)) and not found.kills


def test_fewer_kills_than_asked_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    struck: list[bool] = []

    def strike(self: Any, inside: bool, left: int, chance: random.Random) -> bool:
        struck.append(inside)
        if len(struck) == 1:
            self.kills.append({"steps_this_attempt": 1})
        return len(struck) == 1

    monkeypatch.setattr(Trial, "strike", strike)
    monkeypatch.setattr(Trial, "straight", lambda self: None)
    monkeypatch.setattr(Trial, "compare", lambda self, which: [])
    assert main(["verify-resume", RECIPE, "--kills", "2", "--inside-save", "0", "--json"]) == 1
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert answer["equal"] and answer["kills_asked"] == 2 and len(answer["kills"]) == 1 and "1 of 2 kills" in shown.err


@pytest.mark.parametrize("numbers", [("0", "0"), ("-1", "3")])
def test_no_kill_at_all_is_refused(numbers: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", RECIPE, "--kills", numbers[0], "--inside-save", numbers[1]]) == 2
    assert "--kills" in capsys.readouterr().err


def test_a_budget_of_seconds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", RECIPE, "stages.0.budget=1 min"]) == 2
    assert "stages.0.budget" in capsys.readouterr().err


def test_parity_measures_the_worst_tensor() -> None:
    wanted = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1e-9])}
    assert worst_difference(wanted, wanted)[0] == 0
    assert worst_difference(wanted, wanted | {"a": torch.tensor([3.0, 4.5])}) == (pytest.approx(0.1), "a")
    assert worst_difference(wanted, wanted | {"b": torch.tensor([-1e-9])})[0] < 1e-9  # rounding of a gradient that is zero
    assert worst_difference(wanted, wanted | {"c": torch.zeros(2)})[0] == 0
    assert worst_difference(wanted, wanted | {"c": torch.ones(2)}) == (float("inf"), "c")


def test_a_recipe_resumes_after_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    assert main(["verify-resume", RECIPE, "stages.0.budget=10 steps", "--kills", "2", "--inside-save", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["equal"] and answer["steps"] == 10 and answer["tensors"] > 10
    assert len(answer["kills"]) == 4 and min(kill["steps_this_attempt"] for kill in answer["kills"]) >= 1
    assert sum(kill["inside_save"] for kill in answer["kills"]) == 2


def test_a_recipe_has_one_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["parity", str(ROOT / "recipes/text/bert_tiny.yaml"), "layout=replicate", "--tiny", "--json"]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [(case["layout"], case["ranks"], case["accumulation"]) for case in cases] == [
        *(("single", 1, n) for n in (1, 2, 5)),
        *(("replicate", 2, n) for n in (1, 2, 5)),
    ]
    assert cases[0]["difference"] == 0 and 0 < max(case["difference"] for case in cases) <= 3e-6
