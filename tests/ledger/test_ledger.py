"""The ledger file survives kills and resumes; viewers get the same numbers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ingot.core.errors import RunError, UserError
from ingot.ledger import ledger as module
from ingot.ledger.ledger import Ledger, lived, plain, read, totals
from ingot.ledger.viewers import open_viewers, scalars


def test_lines_come_back_in_order_with_kind_first(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.write("start", parameters=7)
        ledger.write("step", step=1, loss=torch.tensor(2.5), lr=np.float32(0.5), losses={"a": np.array([1, 2])})
    assert (tmp_path / "ledger.jsonl").read_text().splitlines()[1].startswith('{"kind": "step", "step": 1')
    assert read(tmp_path) == [
        {"kind": "start", "parameters": 7},
        {"kind": "step", "step": 1, "loss": 2.5, "lr": 0.5, "losses": {"a": [1, 2]}},
    ]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.write("step", step=1, loss=math.nan, grad_norm=torch.tensor(math.inf))
    assert json.loads((tmp_path / "ledger.jsonl").read_text()) == {"kind": "step", "step": 1, "loss": None, "grad_norm": None}


def test_a_line_is_readable_as_soon_as_it_is_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("step", step=1)
    assert len(read(tmp_path)) == 1
    ledger.close()
    ledger.close()


@pytest.mark.parametrize("tail", ['{"kind": "st', '{"kind": "step", "step": 9}', "\x00\x00", "{" * 200_000])
def test_a_partial_last_line_is_passed_over_and_cut_off_on_reopening(tmp_path: Path, tail: str) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.write("step", step=1)
    with open(tmp_path / "ledger.jsonl", "a") as file:
        file.write(tail)
    with Ledger(tmp_path) as ledger:
        ledger.write("step", step=2)
    assert [line["step"] for line in read(tmp_path)] == [1, 2]


def test_a_killed_writer_loses_no_whole_line(tmp_path: Path) -> None:
    code = (
        f"from ingot.ledger.ledger import Ledger\nl=Ledger({str(tmp_path)!r})\nfor i in range(10**9): l.write('step', step=i, pad='x'*200)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 60
    while len(read(tmp_path)) < 100 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [line["step"] for line in read(tmp_path)]
    assert len(steps) >= 100
    assert steps == list(range(len(steps)))
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) - len(steps) in (0, 1)


def test_truncating_drops_replayed_steps_but_keeps_what_happened(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("start", parameters=1)
    for step in (1, 2, 3, 4):
        ledger.write("step", step=step)
    ledger.write("evaluation", step=4, results={})
    ledger.write("event", step=4, name="nonfinite", message="skipped")
    ledger.write("end", step=2, reason="interrupted")
    assert ledger.truncate_after(2) == 4
    ledger.write("step", step=3)
    ledger.close()
    assert [(line["kind"], line.get("step")) for line in read(tmp_path)] == [
        ("start", None),
        ("step", 1),
        ("step", 2),
        ("event", 4),
        ("step", 3),
    ]
    assert [line.get("replayed") for line in read(tmp_path) if line["kind"] == "event"] == [True]


def test_a_roll_back_that_a_resumed_run_meets_again_is_marked(tmp_path: Path) -> None:
    """It tells the step it went back to, that of the checkpoint from which the killed run is resumed; one that the checkpoint saw is not."""
    ledger = Ledger(tmp_path)
    ledger.write("event", step=2, name="rollback", message="before")
    ledger.write("step", step=3)
    seen = ledger.count
    ledger.write("step", step=4)
    ledger.write("event", step=3, name="rollback", message="after")
    ledger.truncate_after(3, seen)
    ledger.close()
    assert [(line.get("message"), line.get("replayed")) for line in read(tmp_path)] == [("before", None), (None, None), ("after", True)]


def test_a_failed_truncation_leaves_the_old_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    for step in (1, 2):
        ledger.write("step", step=step)
    monkeypatch.setattr(module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunError, match="No space"):
        ledger.truncate_after(1)
    ledger.write("step", step=3)
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3]


def test_a_full_disk_is_one_clear_error_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("step", step=1)
    write, calls = os.write, []

    def fills_up(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1:
            return write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", fills_up)
    with pytest.raises(RunError, match=r"ledger\.jsonl cannot be written: No space left"):
        ledger.write("step", step=2)
    monkeypatch.undo()
    ledger.write("step", step=3)
    assert [line["step"] for line in read(tmp_path)] == [1, 3]


def test_reading_a_folder_without_a_ledger_gives_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == []


def line(kind: str, step: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "step": step, "tokens": 10 * step, "flops": 100.0 * step} | more


def test_what_was_rolled_back_or_taken_again_was_not_lived() -> None:
    """Two steps back from step 4; an evaluation of step 3 goes with it, one of step 2 stays, and so does that of the next stage at 2."""
    before = [line("step", 1), line("step", 2), line("evaluation", 2, stage=0), line("evaluation", 2, stage=1)]
    lost = [line("step", 3), line("evaluation", 3), line("sample", 3), line("step", 4, loss=None)]
    back = {"kind": "event", "step": 2, "name": "rollback"}
    after = [line("step", 3, loss=2.0), line("event", 3, name="checkpoint")]
    assert lived([*before, *lost, back]) == [*before, back]
    assert lived([*before, *lost, back, *after]) == [*before, back, *after]
    again = line("step", 2, loss=1.0)  # without a word of why
    assert lived([*before, again]) == [before[0], again, *before[2:]]
    assert lived([{"kind": "step"}, {"kind": "evaluation"}, {"kind": "event"}]) == [
        {"kind": "step"},
        {"kind": "evaluation"},
        {"kind": "event"},
    ]


def test_totals_are_those_of_the_end_or_of_what_was_noted_last() -> None:
    lines = [line("step", 10), line("step", 20), line("evaluation", 25), line("event", 26)]
    assert totals(lines)["step"] == 25 and totals([*lines, line("end", 24)])["kind"] == "end"
    assert totals(lines[:2])["tokens"] == 200 and totals([{"kind": "step"}, {"kind": "end", "step": 3}]) == {}


def test_plain_values() -> None:
    assert plain({1: (torch.tensor([1.5]), Path("a"))}) == {"1": [[1.5], "a"]}


STEP = {
    "kind": "step",
    "step": 3,
    "loss": 2.0,
    "lr": 0.1,
    "grad_norm": None,
    "losses": {"main": 1.5},
    "tokens_per_second": 10.0,
    "tokens": 5,
}


def test_scalars_of_a_line() -> None:
    assert dict(scalars(STEP)) == {
        "train/loss": 2.0,
        "train/lr": 0.1,
        "train/losses/main": 1.5,
        "speed/tokens_per_second": 10.0,
        "spent/tokens": 5.0,
    }
    assert dict(scalars({"kind": "evaluation", "step": 3, "results": {"web": {"bits_per_byte": 1.1}}})) == {
        "evaluation/web/bits_per_byte": 1.1
    }


def test_tensorboard_gets_what_the_ledger_gets(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Ledger(tmp_path, open_viewers(tmp_path, tensorboard=True)) as ledger:
        ledger.write(**STEP)
        ledger.write("sample", step=3, prompt="Once", text=" upon")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 2.0)]


def test_tensorboard_hides_what_a_resumed_run_takes_again(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for begin, values in ((0, {1: 5.0, 2: 4.0, 3: 9.0, 4: 9.0}), (2, {3: 3.0})):
        with Ledger(tmp_path, open_viewers(tmp_path, tensorboard=True)) as ledger:
            ledger.write("start", resumed=begin > 0, progress={"total_steps": begin})
            for step, loss in values.items():
                ledger.write("step", step=step, loss=loss)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 5.0), (2, 4.0), (3, 3.0)]


def test_wandb_is_given_a_step_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own counter may not go back, as a resumed run does."""
    said: list[Any] = []
    run = SimpleNamespace(
        define_metric=lambda name, step_metric: said.append((name, step_metric)),
        log=lambda values: said.append(values),
        finish=lambda: None,
    )
    module = SimpleNamespace(util=SimpleNamespace(generate_id=lambda: "id"), init=lambda **given: run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with Ledger(tmp_path, open_viewers(tmp_path, tensorboard=False, wandb=True)) as ledger:
        for step in (2, 1):
            ledger.write("step", step=step, loss=1.0)
    assert said == [("*", "step"), {"train/loss": 1.0, "step": 2}, {"train/loss": 1.0, "step": 1}]


def test_viewers_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert open_viewers(tmp_path, tensorboard="auto", wandb="auto") == ()
    with pytest.raises(UserError, match=r"'wandb'.*pip install"):
        open_viewers(tmp_path, tensorboard=False, wandb=True)
    with pytest.raises(UserError, match=r"'tensorboard'.*ingot\[report\]"):
        open_viewers(tmp_path, tensorboard=True)
