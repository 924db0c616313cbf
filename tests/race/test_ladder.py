"""A ladder: what it runs, that it runs nothing twice, what it says of its largest run."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ingot.core.errors import RunError, UserError
from ingot.race.ladder import Ladder, Rung, climb, parameters, read_ladder
from ingot.race.pool import Processes, environment

LADDER = """
# A ladder for tests.
recipe: base.yaml
sizes: {model.width: [8, 12, 16, 24, 32], model.encoder.mixer.heads: 2}
base_width: 16
tokens_per_parameter: 2
evaluations: 2
"""


@pytest.fixture
def ladder(make_race: Callable[..., object], tmp_path: Path) -> Callable[..., Ladder]:
    make_race()  # corpus and base.yaml, and the working directory at them
    (tmp_path / "ladder.yaml").write_text(LADDER)
    return lambda *overrides: read_ladder(tmp_path / "ladder.yaml", overrides)


def test_rungs(ladder: Callable[..., Ladder]) -> None:
    """12 width^2 a layer (relu2 is not gelu: four times as wide), the tokens in whole steps, muP everywhere, the largest held out."""
    found = ladder()
    widths = [rung.tree["model"]["width"] for rung in found.rungs]
    assert widths == [8, 12, 16, 24, 32] and found.held == {4}
    for rung in found.rungs:
        width = rung.tree["model"]["width"]
        assert 12 * width**2 <= rung.params_non_embedding <= 12 * width**2 + 20 * width
        assert rung.tokens % 256 == 0 and abs(rung.tokens - 2 * rung.params_non_embedding) <= 256
        assert rung.tree["model"]["init"] == {"name": "mup", "base_width": 16}
        assert parameters(rung.tree) == (rung.params, rung.params_non_embedding)


def test_an_optimizer_with_a_width_rule_of_its_own_keeps_it(ladder: Callable[..., Ladder]) -> None:
    found = ladder("set={stages: {0: {optimizer: {name: muon, lr: 0.01, rest: {name: adamw, lr: 0.01}}}}}")
    assert [rung.tree["model"]["init"]["scale_matrices"] for rung in found.rungs] == [False] * 5


def test_several_ratios_hold_out_every_run_of_the_largest(ladder: Callable[..., Ladder]) -> None:
    found = ladder("tokens_per_parameter=[1, 4]")
    assert len(found.rungs) == 10 and len(found.held) == 2
    assert {found.rungs[index].tree["model"]["width"] for index in found.held} == {32}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sizes={model.width: [8, 12, 16, 24, 32], model.encoder.depth: [1, 2]}", "one length"),
        ("sizes={model.width: [8, 12, 16]}", "points to fit"),
        ("law=chincilla", "Did you mean 'chinchilla'"),
        ("law=chinchilla", "leaves 4 points to fit, at least 6 are needed for chinchilla"),
        ("law=batch_lr", "needs a column|needs the columns lr, batch"),
        ("sizes={model.width: [8, 12, 16, 24, 33]}", "rung 4"),
    ],
)
def test_refuses(ladder: Callable[..., Ladder], override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ladder(override)


def test_climbs_fits_predicts_and_runs_nothing_twice(ladder: Callable[..., Ladder], tmp_path: Path) -> None:
    said: list[str] = []
    answer = climb(ladder(), folder=tmp_path / "ladders", jobs=1, say=said.append)
    rows = list(csv.DictReader((tmp_path / "ladders" / "ladder" / "points.csv").open()))
    assert [row["held_out"] for row in rows] == ["0", "0", "0", "0", "1"] and len(said) == 5
    assert all(float(row["flop"]) > 6 * float(row["params_non_embedding"]) * float(row["tokens"]) for row in rows), (
        "metered, attention and head included"
    )
    (held,) = answer["held_out"]
    assert held["loss"] == float(rows[-1]["loss"]) and held["low"] < held["predicted"] < held["high"] and held["reach"] > 1
    assert ({"E", "A", "alpha"} == set(answer["estimates"]) and "back-tested" in held["past"]) or "past predictions" in held["past"]
    said.clear()
    again = climb(ladder(), folder=tmp_path / "ladders", jobs=1, say=said.append)
    assert said == [] and again["estimates"] == answer["estimates"]


def test_goes_on_after_a_kill(ladder: Callable[..., Ladder], tmp_path: Path) -> None:
    """The ladder's whole group of processes is killed once two rungs are there; the rest is run, those two are not."""
    ladder()
    code = "from ingot.race.ladder import climb, read_ladder; climb(read_ladder('ladder.yaml'), folder='ladders', jobs=1)"
    first = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(1), start_new_session=True, stdout=subprocess.DEVNULL
    )
    results = lambda: list((tmp_path / "ladders" / "trials").glob("*/result.json"))  # noqa: E731
    deadline = time.monotonic() + 100
    while len(results()) < 2 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {path: path.stat().st_mtime_ns for path in results()}
    said: list[str] = []
    pool = Processes(1)
    try:
        climb(ladder(), folder=tmp_path / "ladders", pool=pool, say=said.append)
    finally:
        pool.close()
    assert len(results()) == 5 and all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert len(said) <= 5 - len(before) and before
    assert json.loads((tmp_path / "ladders" / "ladder" / "ladder.json").read_text())["points"] == 5


def test_a_law_that_does_not_fit_says_that_the_runs_are_there(
    ladder: Callable[..., Ladder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingot.race import ladder as module

    def trained(every: object, store: object, pool: object, metric: str, say: object) -> None: ...

    def point(rung: Rung, *_: object) -> dict[str, float]:
        return dict.fromkeys(module.COLUMNS, 0.0) | {"held_out": int(rung.index == 4), "seconds": 1.0}

    for name, stand_in in (("_identity", lambda *_: None), ("_run", trained), ("_point", point)):
        monkeypatch.setattr(module, name, stand_in)
    with pytest.raises(RunError, match=r"every run is there, in .*points\.csv, but the law does not fit: loss must be above 0"):
        climb(ladder(), folder=tmp_path / "ladders", pool=SimpleNamespace(size=1))  # type: ignore[arg-type]


def test_experts_count_as_often_as_they_are_met(ladder: Callable[..., Ladder]) -> None:
    """Four experts of which a token meets one: as many parameters as without, and a router."""
    plain, moe = (
        ladder(*more).rungs[0].params_non_embedding
        for more in ((), ("set={model: {encoder: {feedforward: {name: moe, experts: 4, expert: gelu, router: {name: top_k, top_k: 1}}}}}",))
    )
    assert plain < moe < 1.2 * plain
