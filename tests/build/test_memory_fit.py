"""Fitting memory: under a cap of half and of a quarter of the naive need a run trains within it; choices are kept, told and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.build import memory_fit
from ingot.build.plan import forecast_stage, plan
from ingot.core.errors import UserError

WORKER = Path(__file__).with_name("_capped.py")
AUTO = {"model": {"encoder": {"checkpointing": "auto"}}, "micro_rows": "auto"}


def capped(folder: Path, cap: int) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder), str(cap)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_half_and_a_quarter_of_the_naive_need_are_kept_within(tmp_path: Path) -> None:
    naive = capped(tmp_path, 0)["naive"]
    assert naive > 1_200_000_000
    found = {share: capped(tmp_path, naive // share) for share in (2, 4)}
    for share, run in found.items():
        print(
            f"cap {naive // share / 1e6:.0f} MB: measured {run['measured'] / 1e6:.0f} MB with {run['choices']['micro_rows']} rows, {run['choices']['checkpointing']}"
        )
        assert 0.4 * naive / share < run["measured"] <= naive / share
        assert len(set(run["rows"])) == 1
    assert found[2]["choices"] != found[4]["choices"]
    for half, quarter in zip(found[2]["losses"], found[4]["losses"]):
        assert quarter == pytest.approx(half, rel=1e-5), "the same batch, the same loss"


def forecasts(monkeypatch: pytest.MonkeyPatch, peaks: dict[tuple[str, bool], tuple[int, int]], recomputed: dict[str, float]) -> list[Any]:
    """Puts made-up forecasts in place: fixed + slope x rows by (mode, fused). Returns what was asked."""
    from ingot.ledger.forecast import Forecast

    asked: list[Any] = []

    def forecast(run: Any, index: int, rows: int, *, checkpointing: str, fused: bool) -> Forecast:
        asked.append((checkpointing, fused, rows))
        fixed, slope = peaks[checkpointing, fused]
        return Forecast(
            peak=fixed + slope * rows,
            by_kind={"weights": 10, "activations": slope * rows},
            flops=1e9,
            flops_by_component={},
            recomputed=1e9 * recomputed[checkpointing],
            micro_rows=rows,
            parameters=1,
        )

    monkeypatch.setattr("ingot.build.plan.forecast_stage", forecast)
    return asked


MADE_UP = {("none", False): (100, 100), ("selective", False): (100, 60), ("full", False): (100, 20)}
AGAIN = {"none": 0.0, "selective": 0.02, "full": 0.3}


@pytest.mark.parametrize(
    ("available", "mode", "rows", "fits"),
    [
        (1000, "none", 8, True),
        (600, "selective", 8, True),
        (299, "full", 8, True),
        (200, "full", 4, True),
        (119, "full", 1, False),
    ],
)
def test_the_fastest_that_fits_is_taken(
    tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch, available: int, mode: str, rows: int, fits: bool
) -> None:
    """Small pieces cost next to nothing here (few, of many positions), so the least recomputation wins until nothing else is left."""
    monkeypatch.setattr(memory_fit, "SLOW_BELOW", 256)  # small pieces are slow, so that recomputing is worth it
    asked = forecasts(monkeypatch, MADE_UP, AGAIN)
    found = memory_fit.settle(ingot.build(tiny_recipe(AUTO)), 0, 8, available, rate=1e9)
    assert (found.checkpointing, found.micro_rows, found.fits) == (mode, rows, fits)
    assert available != 1000 or asked == [("none", False, 8), ("selective", False, 8), ("full", False, 8)]


def test_what_the_recipe_says_is_not_touched(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = forecasts(monkeypatch, MADE_UP, AGAIN)
    run = ingot.build(tiny_recipe({"micro_rows": 3, "model": {"encoder": {"checkpointing": "full"}}}))
    assert memory_fit.fitting(run, 0, 8) == {"micro_rows": 3, "checkpointing": "full", "fused_backward": False} and not asked
    run = ingot.build(tiny_recipe({"micro_rows": 3}, {"model": {"encoder": {"checkpointing": "auto"}}}, name="other"))
    memory_fit.settle(run, 0, 8, 250, rate=1e9)
    assert {rows for _, _, rows in asked} == {3}


def test_updates_inside_backward_are_chosen_where_they_may(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {("none", False): (900, 10), ("none", True): (500, 10)}
    forecasts(monkeypatch, peaks, AGAIN)
    recipe = {"micro_rows": "auto", "anomaly": {"policy": "log"}, "stages": {0: {"fused_backward": "auto", "hooks": []}}}
    found = memory_fit.settle(ingot.build(tiny_recipe(recipe)), 0, 8, 600, rate=1e9)
    assert found.fused_backward and found.fits and found.micro_rows == 8
    clipped = memory_fit.settle(ingot.build(tiny_recipe(recipe, {"stages": {0: {"hooks": ["clip"]}}}, name="clipped")), 0, 8, 600, rate=1e9)
    assert not clipped.fused_backward and not clipped.fits  # clipping wants all gradients first


def events(run: Any) -> list[str]:
    return [
        line["message"]
        for line in map(json.loads, (run.folder / "ledger.jsonl").read_text().splitlines())
        if line["kind"] == "event" and line["name"] == "notice"
    ]


def test_a_capped_run_says_what_it_chose_applies_it_and_resumes_with_it(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {**AUTO, "memory": "1 GiB", "stages": {0: {"budget": "4 steps"}}}
    run = ingot.build(tiny_recipe(tree))
    whole, least = (forecast_stage(run, 0, rows, checkpointing="none").peak for rows in (8, 1))
    assert whole > least
    monkeypatch.setattr(memory_fit, "available_bytes", lambda run: least)
    run.train()
    chosen = {name: run.choices[name] for name in ("micro_rows", "checkpointing", "fused_backward")}
    assert chosen["micro_rows"]["0"] < 8 or chosen["checkpointing"]["0"] != "none"
    assert run.model.encoder.checkpointing == chosen["checkpointing"]["0"]
    (message,) = (message for message in events(run) if message.startswith("stage 0: micro-batch"))
    assert "of the time of a step that needs" in message and "more than is free" not in message
    monkeypatch.setattr(memory_fit, "available_bytes", lambda run: 10**12)  # a resumed run keeps what was chosen, to stay bit-exact
    again = ingot.build(tiny_recipe(tree))
    again.train()
    assert {name: again.choices[name] for name in chosen} == chosen


def test_a_cap_that_cannot_be_kept_is_refused(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe({**AUTO, "memory": "1 MiB", "stages": {0: {"budget": "1 steps"}}}))
    with pytest.raises(
        UserError, match=r"stage 0 is not forecast to fit 1 MB: the least is [0-9]+ MB, with micro_rows 1 and checkpointing"
    ):
        run.train()


def test_the_plan_tells_gradients_even_where_they_are_not_at_the_peak(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe(AUTO, {"data": {"sequence": 256}}))
    (stage,) = plan(run, 10**12)["stages"]
    weights = stage["forecast"]["by_kind"]["weights"]
    assert stage["forecast"]["gradients"] == pytest.approx(weights, rel=0.01)
    assert stage["checkpointing"] == "none" and stage["slower"] == 1.0
    few = plan(run, stage["forecast"]["peak"] - 1)["stages"][0]
    assert few["forecast"]["peak"] < stage["forecast"]["peak"] and few["naive"]["peak"] == stage["forecast"]["peak"]


def test_hooks_that_keep_weights_are_in_the_forecast(tiny_recipe: Any) -> None:
    plain, averaged = (
        ingot.build(tiny_recipe({"stages": {0: {"hooks": hooks}}}, name=name)) for name, hooks in (("plain", []), ("averaged", ["ema"]))
    )
    without, with_it = (forecast_stage(run, 0, 4) for run in (plain, averaged))
    parameters = sum(parameter.nbytes for parameter in plain.model.parameters())
    assert with_it.peak - without.peak == parameters == with_it.by_kind["hooks"]


def test_auto_is_none_until_somebody_settles_it(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe(AUTO))
    assert run.model.encoder.checkpointing == "auto" and run.model.encoder.automatic
    with pytest.raises(UserError, match="fused_backward"):
        ingot.build(tiny_recipe({"stages": {0: {"fused_backward": "perhaps"}}}, name="other"))
