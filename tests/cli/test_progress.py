"""Following a run: shares, time left, money, and lines that survive a reader that went away."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ingot.cli import _progress
from ingot.cli._progress import Bar, Lines, Standing

ROOT = str(Path(__file__).resolve().parents[2] / "src")
START = {
    "kind": "start",
    "run": "runs/x",
    "budgets": ["1k tokens", "20 steps"],
    "parameters": 1_200_000,
    "machine": {"device": "cpu"},
    "choices": {"precision": "float32"},
}


def step(number: int, *, stage: int = 0, **entries: Any) -> dict[str, Any]:
    return {
        "kind": "step",
        "stage": stage,
        "step": number,
        "tokens": number * 100,
        "rows": number,
        "flops": 1.0,
        "seconds": number * 36.0,
        "loss": 2.5,
        "lr": 1e-3,
        "step_tokens": 100,
        "batch_rows": 1,
        "step_seconds": 36.0,
        "tokens_per_second": 12345.0,
        "utilization": 0.31,
    } | entries


def test_epochs_are_the_stages_own() -> None:
    standing = Standing()
    standing.start(START | {"budgets": ["4 epochs"]})
    standing.step(step(3, epochs=1.0))
    assert standing.share == 0.25 and standing.share_of_step == pytest.approx(0.25 / 3)


def test_share_is_of_the_stage_s_budget() -> None:
    standing = Standing()
    standing.start(START)
    standing.step(step(4))
    assert standing.share == pytest.approx(0.4)
    standing.step(step(10))
    standing.step(step(15, stage=1))
    assert standing.share == pytest.approx(5 / 20)


def test_a_resumed_run_knows_where_it_stands() -> None:
    standing = Standing()
    standing.start(START | {"progress": {"stage": 1, "steps": 5, "total_steps": 15}})
    standing.step(step(16, stage=1))
    assert standing.share == pytest.approx(6 / 20)


def test_a_run_that_is_resumed_at_the_end_of_a_stage_begins_the_next_at_nothing() -> None:
    standing = Standing()
    standing.start(START | {"progress": {"stage": 0, "steps": 10, "total_steps": 10, "tokens": 1000, "total_tokens": 1000}})
    standing.step(step(11, stage=1))
    assert standing.share == pytest.approx(1 / 20)


def test_time_left_follows_the_pace_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    standing = Standing()
    standing.start(START)
    standing.step(step(5, step_seconds=10.0))  # began ten seconds ago, at 40 %
    now[0] = 110.0
    standing.step(step(6))
    assert standing.seconds_left == pytest.approx(20.0 * 0.4 / 0.2)


def test_time_left_in_a_stage_follows_the_pace_of_that_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    standing = Standing()
    standing.start(START)
    standing.step(step(10, step_seconds=10.0))
    now[0] = 5000.0  # the first stage took its time
    standing.step(step(11, stage=1, step_seconds=10.0))
    now[0] = 5010.0
    standing.step(step(12, stage=1, step_seconds=10.0))
    assert standing.seconds_left == pytest.approx(18 * 10.0)


def test_money_is_time_by_price() -> None:
    standing = Standing(price_per_hour=2.0)
    standing.start(START)
    standing.step(step(50))
    assert standing.spent_money() == "1.00"


def test_plain_lines_say_everything() -> None:
    stream = io.StringIO()
    lines = Lines(stream, price_per_hour=2.0)
    lines.start(START)
    lines.step(step(4, loss=None))
    lines.evaluation({"kind": "evaluation", "step": 4, "results": {"books": {"loss": 1.5, "perplexity": 4.48}}})
    lines.event({"kind": "event", "step": 4, "name": "checkpoint", "message": "quiet"})
    lines.event({"kind": "event", "step": 4, "name": "out_of_memory", "message": "lowered"})
    lines.sample({"kind": "sample", "step": 4, "prompt": "a", "text": "b\nc"})
    lines.end({"kind": "end", "step": 4, "tokens": 400, "flops": 1e9, "seconds": 144.0, "reason": "finished"})
    text = stream.getvalue()
    assert "1.2 M parameters" in text and "loss nan" in text and "12,345 tokens/s" in text and "31% of peak" in text
    assert "books: loss 1.5000" in text and "quiet" not in text and "out of memory at step 4: lowered" in text and "'b\\nc'" in text
    assert text.splitlines()[-1] == "finished: 4 steps, 400 tokens, 1 GFLOP, 2 min 24 s, 0.08 spent"


@pytest.mark.parametrize(("waited", "said"), [(9.0, True), (0.36, False)])
def test_waiting_for_data_is_told_where_it_is_much(waited: float, said: bool) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.said = float("inf")  # no step on its way
    lines.start(START)
    lines.step(step(1, phases={"data": 36.0}))  # the loader begins
    for number in range(2, 32):
        lines.step(step(number, phases={"data": waited}))
    lines.end({"kind": "end", "step": 31, "tokens": 400, "flops": 1e9, "seconds": 144.0, "reason": "finished"})
    pace, end = stream.getvalue().splitlines()[-2:]
    assert ("24% waiting for data" in pace) == said and ("waiting" in pace) == said
    assert end.endswith("25% of the time waiting for data") == said and ("waiting" in end) == said


def test_a_reader_that_went_away_does_not_end_the_run() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    stream.close()
    lines.start(START)
    lines.step(step(1))
    lines.end({"kind": "end"})


def test_a_broken_pipe_says_nothing_at_the_end_either() -> None:
    """What is left in the buffer would be flushed at exit, with a complaint and a status of its own."""
    code = """import os, sys
from ingot.cli._progress import Lines
reading, writing = os.pipe()
os.dup2(writing, 1)
os.close(reading), os.close(writing)
lines = Lines()
lines.say("one"), lines.say("two")
sys.exit(1)"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"PYTHONPATH": ROOT}
    result = subprocess.run([sys.executable, "-c", code], env=buffered, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, "")


def test_a_letter_that_the_stream_lacks_does_not_end_the_talking() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    lines = Lines(stream)
    lines.say("3 – 5"), lines.say("on")
    stream.seek(0)
    assert stream.read() == "3 \\u2013 5\non\n"


@pytest.mark.parametrize(("term", "kind"), [("dumb", Lines), ("xterm", Bar)])
def test_a_terminal_without_cursor_control_is_given_lines(term: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(_progress.sys, "stdout", SimpleNamespace(isatty=lambda: True))
    assert type(_progress.reporter(json=False, speaks=True)) is kind


def test_the_bar_shows_rate_loss_and_time_left() -> None:
    stream = io.StringIO()
    bar = Bar(stream)
    bar.start(START)
    bar.step(step(4))
    assert "loss 2.5000" in bar.bar.tasks[0].fields["words"] and bar.bar.tasks[0].completed == pytest.approx(0.4)
    bar.end({"kind": "end", "reason": "finished", "seconds": 1.0})
    assert "finished" in stream.getvalue()
