"""verify-resume and parity: they pass on a sound recipe, and they notice what is not."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ingot.build.parity import worst_difference
from ingot.cli import main
from ingot.cli._mortal import Counter
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
    assert sum(kill["died"] for kill in answer["kills"]) >= 3


def test_a_recipe_has_one_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["parity", str(ROOT / "recipes/text/bert_tiny.yaml"), "layout=replicate", "--tiny", "--json"]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [(case["layout"], case["ranks"], case["accumulation"]) for case in cases] == [
        *(("single", 1, n) for n in (1, 2, 5)),
        *(("replicate", 2, n) for n in (1, 2, 5)),
    ]
    assert cases[0]["difference"] == 0 and 0 < max(case["difference"] for case in cases) <= 3e-6
