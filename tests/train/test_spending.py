"""What a step cost over ranks: components that only some ranks have, notices of any rank, the key of what was metered."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ingot.core.patience import until
from ingot.core.sums import wide
from ingot.ledger.meter import Counted, Meter, Spent
from ingot.train.loop import Loop
from ingot.train.moments import end_asked
from ingot.train.spending import Spending
from ingot.train.step import size_of


class Two:
    """A layout of two threads that meet."""

    ranks = 2

    def __init__(self) -> None:
        self.box: dict[int, Any] = {}
        self.meeting = threading.Barrier(2)

    def gather(self, value: Any) -> list[Any]:
        self.box[int(threading.current_thread().name)] = value
        self.meeting.wait(10)
        found = [self.box[0], self.box[1]]
        self.meeting.wait(10)
        return found

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(values)).sum(dim=0)


def test_all_that_a_step_cost_is_of_all_ranks() -> None:
    """Components of one rank alone included, and what a rank that writes nothing has to tell."""
    costs = [{"encoder": 3.0, "hooks": 1.0}, {"encoder": 4.0, "objective": 2.0}]
    layout, found = Two(), {}

    def work(rank: int) -> None:
        spending = Spending(layout)  # type: ignore[arg-type]
        for metered in (True, False):
            spent = Spent(
                2.0 + rank, flops=sum(costs[rank].values()), flops_by_component=dict(costs[rank]), recomputed=rank, metered=metered
            )
            told = spending.total(spent, [{"message": "a row"}] if rank and metered else [])
            found[rank, metered] = (spent.flops, spent.recomputed, spent.flops_by_component, *told)

    threads = [threading.Thread(target=work, args=(rank,), name=str(rank)) for rank in range(2)]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    for rank in range(2):
        for metered in (True, False):
            assert found[rank, metered] == (
                10.0,
                1.0,
                {"encoder": 7.0, "hooks": 1.0, "objective": 2.0},
                2.5,
                [{"message": "a row"}] if metered else [],
            )


def test_ranks_that_meter_at_different_steps_meet() -> None:
    """Where FLOPs depend on a rank's own rows, one may meet something new, with a component of its own, while the others do not."""
    layout, found = Two(), {}
    costs = [[{"encoder": 3.0}] * 3, [{"encoder": 3.0}, {"encoder": 2.0, "early": 1.0}, {"encoder": 3.0}]]

    def work(rank: int) -> None:
        spending, meter = Spending(layout), Meter()  # type: ignore[arg-type]
        for number, parts in enumerate(costs[rank]):
            spent = Spent(1.0, flops=3.0, flops_by_component=dict(parts), metered=number == rank)
            spending.total(spent, [])
            found[rank, number] = spent.flops_by_component
        meter._cache[f"of rank {rank}"] = Counted({"encoder": 3}, 0)
        spending.metered(meter)
        found[rank, "known"] = [meter.known(f"of rank {other}") for other in range(2)]

    threads = [threading.Thread(target=work, args=(rank,), name=str(rank)) for rank in range(2)]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    for rank in range(2):
        assert [found[rank, number] for number in range(3)] == [{"encoder": 6.0}, {"encoder": 5.0, "early": 1.0}, {"encoder": 6.0}]
        assert found[rank, "known"] == [True, True]


def test_what_was_metered_on_some_ranks_is_not_taken_on_others() -> None:
    stage: Any = SimpleNamespace(rows_read=8, rows_per_step=8, micro=lambda ranks: 2, hooks={})
    state: Any = SimpleNamespace(progress=SimpleNamespace(stage=0), optimizer=None)
    keys = set()
    for ranks in (1, 2):
        loop = Loop.__new__(Loop)
        loop.layout = SimpleNamespace(ranks=ranks)  # type: ignore[assignment]
        keys.add(loop._shape_key(stage, state))
    assert len(keys) == 2


def test_windows_that_are_parted_otherwise_are_metered_anew() -> None:
    """Of as many positions others are encoded, where the share that an objective hides is scheduled."""
    parts = [{"kept": torch.zeros(2, kept), "hidden": torch.zeros(2, 16 - kept), "rows": torch.arange(2)} for kept in (4, 4, 8)]
    first, again, other = (size_of([part]) for part in parts)
    assert first == again != other
    leaving: Any = SimpleNamespace(cost=lambda window: f"{sum(int(micro['rows'].sum()) for micro in window)} rows leave early")
    assert size_of(parts[:2], leaving) != size_of(parts[:1], leaving) and size_of(parts[:1], leaving).startswith(first)


def test_a_row_that_several_ranks_pass_over_is_told_once() -> None:
    loop, lines = Loop.__new__(Loop), []
    loop.told, loop.emit = set(), lines.append
    for _ in range(2):
        loop._pass_on([{"message": "a row"}, {"message": "another"}, {"message": "a row"}])
    assert [line["message"] for line in lines] == ["a row", "another"]


def test_a_wait_for_another_process_ends_when_the_end_is_asked_for() -> None:
    import os
    import signal

    from ingot.core.errors import RunError

    noted: list[str] = []
    looks: list[int] = []

    def done() -> bool:
        looks.append(1)
        if len(looks) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return len(looks) > 20

    with end_asked(lambda name: bool(noted.append(name))), pytest.raises(RunError, match="SIGTERM came while waiting for another process"):
        until(done, every=0.01)
    assert noted == ["SIGTERM"] and len(looks) <= 3


def test_sums_are_as_wide_as_the_device_has_types() -> None:
    assert wide(torch.ones(2, dtype=torch.int64)).dtype == wide(torch.ones(2)).dtype == torch.float64
    values = SimpleNamespace(device=torch.device("mps"), float=lambda: "float32", double=None)
    assert wide(values) == "float32"  # type: ignore[arg-type]
