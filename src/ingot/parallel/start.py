"""Joining and leaving the process group that torchrun started."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from ..core.errors import RunError, UserError


@dataclass(frozen=True)
class Place:
    """Where this process stands: its rank of ranks, its rank on this machine, and the device it should use."""

    rank: int
    ranks: int
    local_rank: int
    device: torch.device


def start(device: torch.device | str = "cpu", *, timeout: timedelta = timedelta(minutes=10)) -> Place:
    """Join the group that RANK, WORLD_SIZE and LOCAL_RANK describe (torchrun sets them); alone, make a group of one.

    device: where the model will be: CUDA takes the GPU of the local rank and NCCL, everything else gloo. timeout: how long a rank
    waits for the others. Calling it again is harmless. Raises UserError for more processes than GPUs, RunError when the other
    ranks cannot be reached.
    """
    rank, ranks, local = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = torch.device(device)
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; start fewer processes, or use the CPU")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            if ranks > 1:
                dist.init_process_group(backend, timeout=timeout)
            else:
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"rank {rank} of {ranks} could not join the others: {str(error).splitlines()[0]}") from error
    return Place(rank, ranks, local, device)


def finish() -> None:
    """Leave the group after everybody is done with it."""
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
