"""The machine's description and its yardstick."""

from __future__ import annotations

import json

import pytest
import torch

from ingot.ledger import machine


def test_the_rate_is_measured_once_and_plausible(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = machine.matmul_rate("cpu", torch.float32)
    assert 1e8 < rate < 1e15
    monkeypatch.setattr(machine, "_seconds", lambda *_: pytest.fail("measured twice"))
    assert machine.matmul_rate(torch.device("cpu"), torch.float32) == rate


def test_the_rate_is_the_best_of_the_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.09, 0.005, 0.02] + [0.03] * machine.MEASUREMENTS)
    monkeypatch.setattr(machine, "_seconds", lambda *_: next(seconds))
    monkeypatch.setattr(machine, "_rows", lambda *_: machine.ROWS)
    machine._matmul_rate.cache_clear()
    assert machine.matmul_rate("cpu", torch.float64) == 2 * machine.ROWS * machine.WIDTH**2 / 0.005
    machine._matmul_rate.cache_clear()


def test_a_quiet_machine_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best two agree after the fourth product; the first, which warms up, has no say."""
    seconds = iter([0.09, 0.0201, 0.025, 0.02, 0.001])
    monkeypatch.setattr(machine, "_seconds", lambda *_: next(seconds))
    monkeypatch.setattr(machine, "_rows", lambda *_: machine.ROWS)
    machine._matmul_rate.cache_clear()
    assert machine.matmul_rate("cpu", torch.float64) == 2 * machine.ROWS * machine.WIDTH**2 / 0.02
    assert next(seconds) == 0.001  # never asked for
    machine._matmul_rate.cache_clear()


def test_a_slow_machine_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 2.0, 0.1])
    monkeypatch.setattr(machine, "_seconds", lambda *_: next(seconds))
    monkeypatch.setattr(machine, "_rows", lambda *_: machine.ROWS)
    machine._matmul_rate.cache_clear()
    assert machine.matmul_rate("cpu", torch.float64) == 2 * machine.ROWS * machine.WIDTH**2 / 1.0
    assert next(seconds) == 0.1  # the third was never asked for
    machine._matmul_rate.cache_clear()


@pytest.mark.parametrize(("seconds", "rows"), [(0.005, 64), (1e-4, 256), (1e-5, 4096), (1e-8, 4096)])
def test_a_product_takes_a_twentieth_of_a_second_at_most(monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int) -> None:
    """Where the least, 64 rows, allows that: a type without instructions takes 0.3 s for them, and 20 for all."""
    measured = []

    def product(left: torch.Tensor, _: object) -> float:
        measured.append(len(left))
        return seconds * len(left)

    monkeypatch.setattr(machine, "_seconds", product)
    machine._matmul_rate.cache_clear()
    assert machine.matmul_rate("cpu", torch.float64) == pytest.approx(2 * machine.WIDTH**2 / seconds)
    machine._matmul_rate.cache_clear()
    assert measured[-1] == rows and (seconds * rows <= machine.PRODUCT or rows == machine.FEW)


@pytest.mark.parametrize(
    ("seconds", "worked", "words"),
    [
        ([0.01] * 20, 1.0, []),
        ([0.01, 0.02, 0.02] + [0.02] * 20, 1.0, ["2.0 times as long as the best"]),
        ([0.01] * 20, 0.5, ["other programs had 50% of the processors"]),
    ],
)
def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, seconds: list[float], worked: float, words: list[str]) -> None:
    """Made-up clocks: each product takes so long, of which the processors worked so large a share for this process."""
    times, clock = iter(seconds), [0.0]

    def product(*_: object) -> float:
        taken = next(times)
        clock[0] += taken * worked * torch.get_num_threads()
        return taken

    monkeypatch.setattr(machine, "_seconds", product)
    monkeypatch.setattr(machine, "_rows", lambda *_: machine.ROWS)
    monkeypatch.setattr(machine.time, "process_time", lambda: clock[0])
    machine._matmul_rate.cache_clear()
    said = machine.matmul_doubt("cpu", torch.float64)
    machine._matmul_rate.cache_clear()
    assert bool(said) == bool(words) and all(word in said for word in words)


def test_the_description_is_plain_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "matmul_rate", lambda *_: 1.0)
    description = machine.describe()
    assert json.loads(json.dumps(description)) == description
    assert description["cores"] >= 1
    assert description["memory"] > 2**20
    assert description["cpu"]
