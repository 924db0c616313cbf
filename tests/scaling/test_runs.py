"""Run folders as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.scaling import runs


def write(folder: Path, *, steps: int = 4, judged: int | None = None, torn: bool = False) -> Path:
    folder.mkdir(parents=True)
    lines = [{"kind": "start", "parameters": 1000}]
    lines += [
        {
            "kind": "step",
            "step": step,
            "tokens": 64 * step,
            "flops": 1e6 * step,
            "seconds": 0.1 * step,
            "loss": 5 / step,
            "lr": 0.01 * (5 - step),
        }
        for step in range(1, steps + 1)
    ]
    lines.append(
        {"kind": "step", "step": 2, "tokens": 128, "flops": 2e6, "seconds": 0.2, "loss": 9.0, "lr": 0.03}
    )  # taken again after a resume
    lines.append({"kind": "evaluation", "step": judged or steps, "results": {"a": {"loss": 2.0}, "b": {"loss": 3.0}}})
    (folder / "ledger.jsonl").write_text("\n".join(map(json.dumps, lines)) + ('\n{"kind": "st' if torn else "\n"))
    return folder


def test_a_row_a_run(tmp_path: Path) -> None:
    write(tmp_path / "one", torn=True), write(tmp_path / "deep" / "two", steps=3)
    table = runs.table([tmp_path])
    assert (
        sorted(table["tokens"]) == [192, 256]
        and set(table["params"]) == {1000.0}
        and set(table["loss"]) == {2.5}
        and set(table["batch"]) == {64.0}
    )
    assert table["lr"].max() == 0.04 and set(table["loss_b"]) == {3.0}


def test_curves_hold_every_step_once(tmp_path: Path) -> None:
    write(tmp_path / "one"), write(tmp_path / "two")
    table = runs.table([tmp_path], curves=True)
    assert table["step"].tolist() == [1, 2, 3, 4, 1, 2, 3, 4] and table["loss"][1] == 9.0 and len(np.unique(table["run"])) == 2


def test_steps_that_were_rolled_back_do_not_count(tmp_path: Path) -> None:
    """Back from step 4 to 1, and only step 2 since."""
    path = write(tmp_path / "one") / "ledger.jsonl"
    lines = path.read_text().splitlines()
    lines.insert(-2, json.dumps({"kind": "event", "step": 1, "name": "rollback"}))  # step 2 and an evaluation of step 4 follow
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert runs.curve(path)["loss"].tolist() == [5.0, 9.0]


def test_refuses(tmp_path: Path) -> None:
    write(tmp_path / "short", judged=2)
    with pytest.raises(UserError, match="not finished"):
        runs.table([tmp_path])
    with pytest.raises(UserError, match="no folder with a run"):
        runs.table([tmp_path / "none"])


def test_totals_are_those_of_the_end_not_of_the_last_logged_step(tmp_path: Path) -> None:
    """log.every 10: steps 10 and 20 are logged, the run ends at 25; without an end its last evaluation tells them."""
    lines: list[dict[str, Any]] = [{"kind": "start", "parameters": 1000}]
    lines += [{"kind": "step", "step": step, "tokens": 64 * step, "flops": 1e6 * step, "loss": 5.0, "lr": 0.01} for step in (10, 20)]
    totals = {"step": 25, "tokens": 1600, "flops": 2.5e7, "seconds": 2.0}
    lines += [{"kind": "evaluation", "results": {"a": {"loss": 2.0}}} | totals, {"kind": "end", "reason": "finished"} | totals]
    for name, kept in (("ended", lines), ("cut", lines[:-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ledger.jsonl").write_text("\n".join(map(json.dumps, kept)))
        table = runs.table([tmp_path / name])
        assert (table["tokens"][0], table["flop"][0], table["steps"][0], table["seconds"][0]) == (1600, 2.5e7, 25, 2.0), name


def test_a_grown_run_counts_with_the_size_at_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "grown") / "ledger.jsonl"
    event = {"kind": "event", "step": 2, "name": "transform", "transform": {"before": {"parameters": 1000}, "after": {"parameters": 4000}}}
    path.write_text(path.read_text() + json.dumps(event) + "\n")
    assert runs.table([path])["params"].tolist() == [4000.0]


def test_the_last_step_follows_from_what_steps_spend_now(tmp_path: Path) -> None:
    """The batch grew tenfold after 100 steps: of 41,000 tokens 11,000 are spent at step 200, and 100 go with each step."""
    tokens = np.concatenate([10.0 * np.arange(1, 101), 1000 + 100.0 * np.arange(1, 101)])
    sofar = {"step": np.arange(1.0, 201), "tokens": tokens, "flop": 1e6 * tokens, "loss": np.ones(200), "lr": np.ones(200)}
    (tmp_path / "recipe.yaml").write_text("stages: [{budget: 11k tokens}, {budget: 30k tokens}]\n")
    ledger = tmp_path / "ledger.jsonl"
    assert runs.step_at(1.0, ledger, sofar) == pytest.approx(500)
    assert runs.step_at(0.5, ledger, sofar) == pytest.approx(295)
    assert runs.step_at(1000 / 41000, ledger, sofar) == pytest.approx(100), "a share that is behind it is read off"
