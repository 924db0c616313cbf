"""Joining the process group: where torchrun says, alone, twice, and in vain."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from ingot.core.errors import RunError, UserError
from ingot.parallel.start import finish, start


def test_alone_makes_a_group_of_one() -> None:
    place = start()
    try:
        assert (place.rank, place.ranks, place.local_rank, place.device) == (0, 1, 0, torch.device("cpu"))
        assert dist.get_world_size() == 1
        assert start() == place
    finally:
        finish()
    assert not dist.is_initialized()
    finish()


def test_ranks_that_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="rank 1 of 2 could not join the others") as caught:
        start(timeout=timedelta(seconds=1))
    assert "\n" not in str(caught.value)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "64")
    with pytest.raises(UserError, match="process 64 of this machine has no GPU"):
        start("cuda")
