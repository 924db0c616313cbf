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
from ..core.patience import watching

PATIENCE = 2.0  # seconds in which ranks leave word of why they end
GOES_ON = "What was saved is whole: the same command goes on from it, with any number of ranks"
GONE = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out", "socket")  # in what the collectives say
FAILED = "failed"  # there as soon as any rank has failed
_board: dist.Store | None = None  # where ranks leave word; it outlives the group's connections
_timeout = 600.0  # of the group's collectives, seconds


class Lost(RunError):
    """Another rank failed, or does not answer."""


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
        device = own_gpu()
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


def own_gpu() -> torch.device:
    """The GPU of this process's local rank, from here on the current one. Raises UserError for more processes than GPUs."""
    local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= there:
        raise UserError(f"process {local} of this machine has no GPU of its own: there are {there}; start fewer processes, or use the CPU")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


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
    global _board, _timeout
    store, _, _ = next(rendezvous("env://", rank, ranks, timeout=timeout))
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)
    _board, _timeout = dist.PrefixStore("ingot/words", store), timeout.total_seconds()


@contextmanager
def together() -> Iterator[None]:
    """Around work of several ranks. A rank that fails leaves word of it; one that loses the others raises RunError, which names them.

    Whatever happens to one rank, the others end within the collectives' timeout and a few seconds, also where they wait outside of them.
    """
    try:
        with watching(_Lookout()):
            yield
    except Lost:
        raise
    except Exception as error:
        if _board is None or not dist.is_initialized() or dist.get_world_size() == 1:
            raise
        if not _is_loss(error):
            kind = "" if isinstance(error, IngotError) else f"{type(error).__name__}: "
            if _say(f"failed: {kind}{one_line(str(error).strip().partition(chr(10))[0])[:300]}", FAILED) and _is_keeper():
                time.sleep(PATIENCE)  # the others cannot read it when this process is gone
            raise
        raise Lost(_obituary("timed out" in str(error).lower())) from error


class _Lookout:
    """Asked by those who wait outside of collectives: raises Lost where a rank has left word of its failure, or nobody keeps the words.

    A thread looks, for where the keeper of the words stands still no answer may ever come; then the wait ends when a collective's would.
    """

    every = 0.5

    def __init__(self) -> None:
        self.asked = self.answered = 0.0
        self.failed = False
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        if _board is None:
            return
        self.asked = time.monotonic()
        if self.thread is None or not self.thread.is_alive():
            self.answered = self.asked
            self.thread = threading.Thread(target=self._look, name="ingot-lookout", daemon=True)
            self.thread.start()
        if self.failed:
            raise Lost(_obituary(waited=False))
        if self.asked - self.answered > _timeout:
            raise Lost(f"rank 0 did not answer in time. {GOES_ON}")

    def _look(self) -> None:
        while time.monotonic() - self.asked < 10 * self.every:  # as long as somebody waits
            time.sleep(self.every)
            try:
                if not _kept() or _board is None or _board.check([FAILED]):
                    self.failed = True
                    return
            except (dist.DistError, RuntimeError):
                self.failed = True
                return
            self.answered = time.monotonic()


def _is_loss(error: Exception) -> bool:
    """Whether a collective failed, rather than the work between them."""
    said = str(error).lower()
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and any(word in said for word in GONE))


def _say(word: str, *marks: str) -> bool:
    """Leave word for the other ranks, and marks that tell of it; False where there is nobody to keep it."""
    if not _kept():
        return False
    with suppress(dist.DistError, RuntimeError):
        assert _board is not None
        for name in (str(dist.get_rank()), *marks):
            _board.set(name, word)
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
    return f"{'; '.join(failed) or 'the connection to another rank broke'}. {GOES_ON}"


def _words(ranks: int) -> dict[int, str]:
    """What each rank left, waited for until all did or PATIENCE is over; empty where their keeper is gone."""
    found: dict[int, str] = {}
    deadline = time.monotonic() + PATIENCE
    with suppress(dist.DistError, RuntimeError):
        while len(found) < ranks and time.monotonic() < deadline and _kept():
            assert _board is not None
            found |= {rank: _board.get(str(rank)).decode() for rank in range(ranks) if rank not in found and _board.check([str(rank)])}
            time.sleep(0.1)
    if _is_keeper():
        time.sleep(0.5)  # the others may still be reading
    return found


def _keeps() -> bool:
    """Whether rank 0 itself keeps the words; under torchrun its agent does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _is_keeper() -> bool:
    """Whether the words go with this process."""
    return dist.get_rank() == 0 and _keeps()


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
