"""Faults while training: rows that give NaN, signals, and what the ledger says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _runs import PLANTED, poison

from ingot.build.program import Program
from ingot.core.recipe import dump
from ingot.model.graph import Model

EIGHT = {"stages": {0: {"budget": "8 steps"}}}


def lines(name: str = "tiny") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"runs/{name}/ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def steps(name: str = "tiny") -> list[int]:
    return [line["step"] for line in lines(name) if line["kind"] == "step"]


def events(*names: str, run: str = "tiny") -> list[dict[str, Any]]:
    return [line for line in lines(run) if line["kind"] == "event" and line["name"] in names]


def weights(name: str = "tiny") -> dict[str, torch.Tensor]:
    from ingot.train.checkpoint import Checkpoints, read_tensors

    path = Checkpoints(f"runs/{name}/checkpoints").latest()
    assert path is not None
    return read_tensors(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_skip_leaves_the_step_out(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    poison(monkeypatch, value=value)
    status, _, err = ingot("train", write(EIGHT, {"anomaly": {"policy": "skip"}}))
    assert status == 0, err
    (event,) = events("nonfinite")
    assert event["step"] == 5 and event["action"] == "skip" and "loss is" in event["message"]
    assert {row["row"] for row in event["rows"][:2]} == set(PLANTED) and all(row["source"] in ("left", "right") for row in event["rows"])
    assert steps() == list(range(1, 9))
    assert all(torch.isfinite(value).all() for value in weights().values())
    assert lines()[-1]["reason"] == "finished"


def test_a_bad_gradient_of_a_good_loss_is_left_out_too(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, gradient_only=True)
    assert ingot("train", write(EIGHT))[0] == 0
    (event,) = events("nonfinite")
    assert event["step"] == 5 and event["message"].startswith("gradient norm is")
    assert all(torch.isfinite(value).all() for value in weights().values())


def test_a_skipped_step_changes_nothing(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights after the bad step are those before it."""
    poison(monkeypatch, range(16, 20))
    path = write({"stages": {0: {"budget": "5 steps"}}, "checkpoint": {"every": "1 steps", "keep_last": 9}})
    assert ingot("train", path)[0] == 0
    from ingot.train.checkpoint import read_tensors

    before, after = (read_tensors(f"runs/tiny/checkpoints/step-0000000{number}") for number in (4, 5))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_log_applies_the_update(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch)
    status, _, err = ingot("train", write(EIGHT, {"anomaly": {"policy": "log"}}))
    assert status == 0, err
    first = events("nonfinite")[0]
    assert first["step"] == 5 and first["action"] == "log" and {row["row"] for row in first["rows"][:2]} == set(PLANTED)
    assert any(not torch.isfinite(value).all() for value in weights().values())
    assert [line["loss"] for line in lines() if line["kind"] == "step"][4:] == [None] * 4


def test_stop_is_one_line_and_the_run_can_go_on(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    met = poison(monkeypatch)
    path = write(EIGHT, {"anomaly": {"policy": "stop"}})
    found = ingot.refuses("train", path, status=1, words=("step 5", "loss is nan", "last checkpoint is whole"))
    assert len(found) == 1
    (event,) = events("nonfinite")
    assert event["action"] == "stop" and {row["row"] for row in event["rows"][:2]} == set(PLANTED)
    assert steps() == [1, 2, 3, 4] and max(met) == 19
    ingot.refuses("train", path, status=1, words=("step 5",))
    monkeypatch.undo()
    monkeypatch.chdir(path.parent)
    assert ingot("train", path)[0] == 0
    assert steps() == list(range(1, 9)) and all(torch.isfinite(value).all() for value in weights().values())


def test_roll_back_passes_over_the_rows(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    met = poison(monkeypatch)
    path = write(EIGHT, {"anomaly": {"policy": "roll_back"}, "checkpoint": {"every": "3 steps"}})
    status, _, err = ingot("train", path)
    assert status == 0, err
    (event,) = events("nonfinite")
    (rollback,) = events("rollback")
    assert event["step"] == 5 and rollback["step"] == 3 and "rows 16 to 19 will be passed over" in rollback["message"]
    assert met.count(16) == 1 and met.count(12) == 2, "the rows of the bad step are met once, those before it again"
    assert met.count(20) == 1 and max(met) == 35
    assert steps()[-1] == 8 and lines()[-1]["reason"] == "finished"
    assert all(torch.isfinite(value).all() for value in weights().values())
    spent = [(line["step_flops"], line["step_seconds"]) for line in lines() if line["kind"] == "step"]
    assert len(spent) == 8 + 2 and lines()[-1]["rows"] == 36, "two steps were undone, and one window passed over"
    assert lines()[-1]["flops"] == pytest.approx(sum(flops for flops, _ in spent)), "what undone steps cost stays counted"
    assert lines()[-1]["seconds"] == pytest.approx(sum(seconds for _, seconds in spent))


def test_rows_passed_over_stay_so_in_a_resumed_run(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the roll-back and the bad rows, and resumed: bit for bit the run that was not stopped."""
    path = write(EIGHT, {"anomaly": {"policy": "roll_back"}, "checkpoint": {"every": "3 steps", "keep_last": 9}})
    poison(monkeypatch)
    assert ingot("train", path)[0] == 0
    straight = weights()
    import shutil

    shutil.move("runs/tiny", "runs/straight")
    from ingot.build.session import Scribe

    real = Scribe.emit

    def emit(self: Scribe, line: dict[str, Any]) -> None:
        real(self, line)
        if line["kind"] == "event" and line["name"] == "rollback":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Scribe, "emit", emit)
        assert ingot("train", path)[0] == 130
    assert ingot("train", path)[0] == 0
    assert all(torch.equal(straight[name], value) for name, value in weights().items())


def test_roll_back_again_and_again_ends_with_a_line(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, range(16, 10**9))
    path = write(EIGHT, {"anomaly": {"policy": "roll_back", "most": 3, "window": 8}})
    ingot.refuses("train", path, status=1, words=("instability hidden too often",))
    assert len(events("nonfinite")) >= 3


def test_skipping_too_often_ends_with_a_line(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, range(8, 10**9))
    path = write({"stages": {0: {"budget": "40 steps"}}}, {"anomaly": {"policy": "skip", "most": 3, "window": 8}})
    ingot.refuses("train", path, status=1, words=("instability hidden too often",))


def test_a_bug_in_the_model_leaves_the_run_whole(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(EIGHT)

    def broken(self: Model, batch: dict[str, torch.Tensor], **asked: Any) -> Any:
        if torch.is_grad_enabled() and 17 in batch["rows"].tolist():
            raise AssertionError("planted")
        return real(self, batch, **asked)

    real = Model.forward
    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", broken)
        status, _, err = ingot("train", path)
    assert status == 1 and "planted" in err and steps() == [1, 2, 3, 4]
    assert ingot("train", path)[0] == 0
    assert steps() == list(range(1, 9))


# -- signals ---------------------------------------------------------------------------------------------------------------------


def start(path: Path, *more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ingot", "train", str(path), *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(number: int, process: subprocess.Popen[str]) -> None:
    ledger = Path("runs/tiny/ledger.jsonl")
    for _ in range(1200):
        if ledger.exists() and ledger.read_text(encoding="utf-8").count('"kind": "step"') >= number:
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"no step {number}: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_of_this_step(ingot: Any, write: Any, number: signal.Signals) -> None:
    from ingot.train.checkpoint import Checkpoints

    path = write({"stages": {0: {"budget": "5000 steps"}}, "checkpoint": {"every": "100%"}})
    process = start(path)
    wait_for_step(5, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "To go on" in err, err
    newest = Checkpoints("runs/tiny/checkpoints").latest()
    assert newest is not None and int(newest.name[5:]) == steps()[-1]
    assert lines()[-1]["kind"] == "end" and lines()[-1]["reason"] == number.name


def test_kill_9_at_any_time_leaves_a_run_that_goes_on(ingot: Any, write: Any) -> None:
    from ingot.train.checkpoint import Checkpoints

    path = write({"stages": {0: {"budget": "5000 steps"}}, "checkpoint": {"every": "1 steps", "keep_last": 2}})
    reached = 0
    for more in (4, 7):
        process = start(path)
        wait_for_step(reached + more, process)
        process.kill()
        process.communicate(timeout=60)
        newest = Checkpoints("runs/tiny/checkpoints").latest()
        assert newest is not None
        reached = int(newest.name[5:])
        assert reached >= steps()[-1] - 2
    found = lines_of_a_killed_run()
    assert [line["step"] for line in found if line["kind"] == "step"][:reached] == list(range(1, reached + 1))


def lines_of_a_killed_run() -> list[dict[str, Any]]:
    """Every line but perhaps the last is whole."""
    text = Path("runs/tiny/ledger.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()[: -1 if not text.endswith("\n") else None]]


def test_roll_back_passes_over_a_last_window_that_is_not_full(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Model.forward

    def forward(self: Model, batch: dict[str, torch.Tensor], **asked: Any) -> Any:
        losses = real(self, batch, **asked)
        last = torch.is_grad_enabled() and bool((batch["rows"] < 0).any())  # only the last window is filled up
        return {name: loss * float("nan") for name, loss in losses.items()} if last else losses

    monkeypatch.setattr(Model, "forward", forward)
    data = {"train": {"weights": None, "max_epochs": {"left": 0.3, "right": 0.3}}}
    more = {"anomaly": {"policy": "roll_back"}, "stages": {0: {"budget": "5000 rows", "batch": "7 rows"}}, "micro_rows": 7}
    status, _, err = ingot("train", write({"data": data, **more}))
    assert status == 0, err
    assert len(events("rollback")) == len(events("data_end")) == 1
    (event,) = events("nonfinite")
    assert lines()[-1]["step"] == event["step"] - 1 and lines()[-1]["reason"] == "finished"


def test_a_roll_back_says_which_checkpoint_is_damaged(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch)
    real = Program.restore

    def restore(self: Program, state: Any) -> int | None:
        shard = next(Path("runs/tiny/checkpoints/step-00000004").glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-1])
        return real(self, state)

    monkeypatch.setattr(Program, "restore", restore)
    status, _, err = ingot("train", write(EIGHT, {"anomaly": {"policy": "roll_back"}, "checkpoint": {"keep_last": 9}}))
    assert status == 0, err
    (rollback,) = events("rollback")
    assert rollback["step"] == 2 and any("going on from step-00000002" in event["message"] for event in events("notice"))


def test_a_first_step_without_its_update_is_not_taken_for_the_cost_of_one(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = {"stages": {0: {"optimizer": {"name": "sam", "inner": {"name": "adamw", "lr": 0.003}}}}}
    status, _, err = ingot("train", write(sam, name="clean"))
    assert status == 0, err
    poison(monkeypatch, range(4))
    assert ingot("train", write(sam))[0] == 0
    (wanted,) = {line["step_flops"] for line in lines("clean") if line["kind"] == "step"}
    first, *rest = [line["step_flops"] for line in lines() if line["kind"] == "step"]
    assert first < wanted and rest == [wanted] * 3


def test_a_bad_row_is_of_a_source_of_its_own_stage(ingot: Any, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"train": {"name": "mixture", "sources": {side: {"name": "text_files", "paths": [side[:-1]]} for side in ("right2", "left2")}}}
    stage = {"budget": "2 steps", "batch": "4 rows", "optimizer": {"name": "adamw", "lr": 0.003}}
    poison(monkeypatch, range(4, 8))
    path = write({"stages": {0: {"budget": "1 steps"}}})
    tree = yaml.safe_load(path.read_text())
    tree["stages"].append(stage | {"data": data | {"holdout": 0.2, "sequence": 32}})
    path.write_text(dump(tree))
    status, _, err = ingot("train", path)
    assert status == 0, err
    (event,) = events("nonfinite")
    assert event["step"] == 3 and {row["source"] for row in event["rows"]} <= {"right2", "left2"}
