"""Joining and leaving the process group that torchrun started, and what a rank says when it loses the others."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ..core.errors import IngotError, RunError, UserError, one_line

PATIENCE = 2.0  # seconds in which ranks leave word of why they end
GONE = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out", "socket")  # in what the collectives say
_board: dist.Store | None = None  # where ranks leave word; it outlives the group's connections


@dataclass(frozen=True)
class Place:
    """Where this process stands: its rank of ranks, its rank on this machine, and the device it should use."""

    rank: int
    ranks: int
    local_rank: int
    device: torch.device


def start(device: torch.device | str = "cpu", *, timeout: timedelta | None = None) -> Place:
    """Join the group that RANK, WORLD_SIZE and LOCAL_RANK describe (torchrun sets them); alone, make a group of one.

    device: where the model will be: CUDA takes the GPU of the local rank and NCCL, everything else gloo. timeout: how long a rank
    waits for the others, INGOT_RANK_TIMEOUT seconds or 10 minutes when not given. Calling it again is harmless. Raises UserError for more
    processes than GPUs, RunError when the other ranks cannot be reached.
    """
    rank, ranks, local = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = torch.device(device)
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; start fewer processes, or use the CPU"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        timeout = timeout or timedelta(seconds=_seconds("INGOT_RANK_TIMEOUT", 600.0))
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            if ranks > 1:
                _meet(backend, rank, ranks, timeout)
            else:
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"rank {rank} of {ranks} could not join the others: {str(error).splitlines()[0]}") from error
    return Place(rank, ranks, local, device)


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value < 1e7:
        raise UserError(f"{name}: wants seconds, a number above 0, got {text!r}")
    return value


def _meet(backend: str, rank: int, ranks: int, timeout: timedelta) -> None:
    global _board
    store, _, _ = next(rendezvous("env://", rank, ranks, timeout=timeout))
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)
    _board = dist.PrefixStore("ingot/words", store)


@contextmanager
def together() -> Iterator[None]:
    """Around work of several ranks. A rank that fails leaves word of it; one that loses the others raises RunError, which names them.

    Whatever happens to one rank, the others end within the collectives' timeout and a few seconds.
    """
    try:
        yield
    except Exception as error:
        if _board is None or not dist.is_initialized() or dist.get_world_size() == 1:
            raise
        if not _is_loss(error):
            kind = "" if isinstance(error, IngotError) else f"{type(error).__name__}: "
            _say(f"failed: {kind}{one_line(str(error).strip().partition(chr(10))[0])[:300]}")
            raise
        raise RunError(_obituary("timed out" in str(error).lower())) from error


def _is_loss(error: Exception) -> bool:
    """Whether a collective failed, rather than the work between them."""
    said = str(error).lower()
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and any(word in said for word in GONE))


def _say(word: str) -> bool:
    """Leave word for the other ranks; False where there is nobody to keep it."""
    if not _kept():
        return False
    with suppress(dist.DistError, RuntimeError):
        assert _board is not None
        _board.set(str(dist.get_rank()), word)
        return True
    return False


def _kept() -> bool:
    """Whether the process that keeps the words is there: a store that has lost it fills the screen before it raises."""
    try:
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), timeout=1).close()
    except (OSError, KeyError, ValueError):
        return False
    return True


def _obituary(waited: bool) -> str:
    """Who is missing, as far as can be known: those who failed said so, and those who were killed or stand still say nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the survivors too; this one is about to end, with a line
    time.sleep(0.1)  # a killed process loses its connections one by one
    ranks, rank = range(dist.get_world_size()), dist.get_rank()
    words = _words(len(ranks)) if _say("lost") else {}
    silent = set(ranks) - set(words) - {rank} if words else {0} - {rank} if _keeps() else set()
    failed = [f"rank {other} {word}" for other, word in sorted(words.items()) if word != "lost"]
    if silent and not failed:
        names = f"rank{'s' * (len(silent) > 1)} {', '.join(map(str, sorted(silent)))}"
        failed = [f"{names} did not answer" + (" in time" if waited else ": killed, or lost with its machine")]
    return f"{'; '.join(failed) or 'the connection to another rank broke'}. What was saved is whole: the same command goes on from it, with any number of ranks"


def _words(ranks: int) -> dict[int, str]:
    """What each rank left, waited for until all did or PATIENCE is over; empty where their keeper is gone."""
    found: dict[int, str] = {}
    deadline = time.monotonic() + PATIENCE
    with suppress(dist.DistError, RuntimeError):
        while len(found) < ranks and time.monotonic() < deadline and _kept():
            assert _board is not None
            found |= {rank: _board.get(str(rank)).decode() for rank in range(ranks) if rank not in found and _board.check([str(rank)])}
            time.sleep(0.1)
    if dist.get_rank() == 0 and _keeps():
        time.sleep(0.5)  # the others may still be reading
    return found


def _keeps() -> bool:
    """Whether rank 0 itself keeps the words; under torchrun its agent does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def finish() -> None:
    """Leave the group after everybody is done with it."""
    global _board
    _board = None
    if dist.is_available() and dist.is_initialized():
        with suppress(RuntimeError):
            dist.barrier()
        dist.destroy_process_group()


def leave(status: int = 0) -> NoReturn:
    """End a worker of several: wait for the others if all went well, flush, and exit without running destructors.

    The collective library's threads sometimes abort the interpreter's shutdown after correct output, which torchrun would
    report as a failure; skipping the destructors avoids it.
    """
    if status == 0 and dist.is_available() and dist.is_initialized():
        with suppress(RuntimeError):
            dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
