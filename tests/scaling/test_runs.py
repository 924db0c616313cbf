"""Run folders as tables."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_refuses(tmp_path: Path) -> None:
    write(tmp_path / "short", judged=2)
    with pytest.raises(UserError, match="not finished"):
        runs.table([tmp_path])
    with pytest.raises(UserError, match="no folder with a run"):
        runs.table([tmp_path / "none"])
