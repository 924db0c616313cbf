"""Figures of a page from ledger lines: thinning keeps extremes, shares add up, odd lines do no harm."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.report.figures import (
    best_evaluations,
    curves,
    evaluations,
    events,
    figures,
    flops_by_component,
    memory_by_kind,
    smoothed,
    stage_starts,
    thinned,
    time_by_phase,
)


def step(number: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": number,
        "tokens": 100 * number,
        "flops": 10.0 * number,
        "seconds": 2.0 * number,
        "loss": 1 / number,
    } | more


def test_a_long_run_is_thinned_and_its_extremes_survive() -> None:
    lines = [step(number) for number in range(1, 100_001)]
    lines[54_321]["loss"] = 99.0
    lines[11_111]["grad_norm"] = 7.0
    found = curves(lines)
    assert 1000 < len(found["step"]) < 6000
    assert len({len(column) for column in found.values()}) == 1
    assert 99 in found["loss"]
    assert found["step"][found["loss"].index(99)] == 54_322
    assert 7 in found["grad_norm"]
    assert (found["step"][0], found["step"][-1]) == (1, 100_000)


@given(st.lists(st.none() | st.floats(-1e3, 1e3), max_size=300), st.integers(1, 20))
def test_thinning_keeps_ends_order_and_extremes(values: list[float | None], buckets: int) -> None:
    kept = thinned(len(values), [values], buckets)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(2 * buckets, 3 * buckets + 2)
    known = [value for value in values if value is not None]
    if known:
        shown = [values[index] for index in kept if values[index] is not None]
        assert (min(shown), max(shown)) == (min(known), max(known))


def test_the_average_has_no_lag_and_fills_gaps() -> None:
    line = [float(index) for index in range(1000)]
    middle = smoothed(line)[100:900]
    assert max(abs(value - index) for index, value in enumerate(middle, 100)) < 1
    assert None not in smoothed([1.0, None, 3.0])
    assert smoothed([None, None]) == [None, None]
    assert smoothed([]) == []


def test_shares_of_logged_steps_stand_for_the_steps_between() -> None:
    lines = [
        step(
            10,
            step_seconds=2.0,
            phases={"data": 0.5, "forward_backward": 1.5},
            step_flops=10.0,
            flops_by_component={"encoder": 8.0, "objective": 2.0, "embedding": 0},
        ),
        step(20, step_seconds=2.0, phases={"data": 1.0, "forward_backward": 1.0}, step_flops=10.0, flops_by_component={"encoder": 10.0}),
    ]
    beside = [
        {"kind": "evaluation", "took": 3.0},
        {"kind": "event", "name": "checkpoint", "took": 1.0},
        {"kind": "event", "name": "resume"},
    ]
    assert time_by_phase(lines + beside, lines) == {"forward_backward": 25.0, "data": 15.0, "evaluation": 3.0, "checkpoint": 1.0}
    assert flops_by_component(lines) == {"encoder": 180.0, "objective": 20.0}


def test_memory_keeps_the_largest_and_names_the_rest() -> None:
    lines = [
        step(1, memory={"process_peak": 100, "weights": 10, "gradients": 0}),
        step(2, memory={"process_peak": 120, "weights": 10, "gradients": 10, "optimizer_state": 20}),
    ]
    assert memory_by_kind(lines) == {"weights": 10, "gradients": 10, "optimizer_state": 20, "rest": 80}


def test_events_are_placed_at_the_last_step_before_them() -> None:
    lines = [step(1), step(2), step(4)]
    found = events([{"kind": "event", "step": 3, "name": "spike", "message": "m"}, {"kind": "event", "step": 0, "name": "start"}], lines)
    assert [(event["name"], event["tokens"]) for event in found] == [("start", 0.0), ("spike", 200.0)]


def test_stages_and_evaluations() -> None:
    lines = [step(1, stage=0), step(2, stage=1), step(3, stage=1)]
    assert [stage["step"] for stage in stage_starts(lines)] == [2]
    found = evaluations(
        [{"kind": "evaluation", "step": 1, "tokens": 5, "results": {"web": {"loss": 2.0, "bits_per_byte": math.nan}, "bad": None}}]
    )
    assert found["web"]["loss"] == [2]
    assert found["web"]["bits_per_byte"] == [None]
    assert set(found) == {"web"}


def test_a_run_that_was_rolled_back_is_drawn_as_it_went_on() -> None:
    """Back from step 4 to 2: no curve goes backwards, and a step's share of the time is of what was spent since the line before."""

    def timed(number: int, seconds: float) -> dict[str, Any]:
        return step(number, seconds=seconds, step_seconds=1.0, phases={"data": 1.0})

    back = {"kind": "event", "step": 2, "name": "rollback"}
    undone = {"kind": "evaluation", "step": 4, "took": 0.5, "results": {}}
    found = figures([timed(1, 1.0), timed(2, 2.0), timed(3, 3.0), timed(4, 4.0), undone, back, timed(3, 5.0), timed(4, 6.0)])
    assert found["curves"]["step"] == [1, 2, 3, 4] and found["curves"]["seconds"] == [1, 2, 5, 6]
    assert found["time"] == {"data": 6.0, "evaluation": 0.5} and found["spent"]["seconds"] == 6.0


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"kind": "start"}],
        [{"kind": "step"}],
        [{"kind": "step", "loss": "x", "phases": None, "memory": None}],
        [{"kind": "evaluation"}, {"kind": "event"}, {"kind": "sample"}, {"kind": "end"}, {"kind": "unknown"}],
    ],
)
def test_lines_with_anything_missing(lines: list[dict[str, Any]]) -> None:
    found = figures(lines)
    assert all(value is None for value in found["curves"]["loss"])


def test_the_best_is_of_what_the_last_stage_measures() -> None:
    """A masked loss and a causal one, or a loss and bits per byte, do not compare."""

    def line(stage: int, **metrics: Any) -> dict[str, Any]:
        return {"kind": "evaluation", "stage": stage, "step": 10 * stage + len(metrics), "results": {"a": metrics}}

    lines = [line(0, loss=1.0), line(1, loss=3.0), line(1, loss=2.5), line(2, loss=2.7)]
    assert best_evaluations(lines, ["causal_lm", "masked_lm", "masked_lm"])["a"]["best"] == 2.5
    assert best_evaluations(lines, ["causal_lm"] * 3)["a"]["best"] == best_evaluations(lines)["a"]["best"] == 1.0
    found = best_evaluations([*lines, line(2, loss=2.0, bits_per_byte=4.0)])["a"]
    assert (found["best"], found["best_step"]) == (4.0, 22)
    assert best_evaluations([line(0, loss=math.nan)])["a"]["best_step"] is None
