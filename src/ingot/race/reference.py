"""Reference-system time: what a run would take on a stated machine, from its counted FLOPs and bytes, so that results carry.

    reference seconds = FLOPs / F + bytes / B          F = 100 GFLOP/s, B = 10 GB/s: about two cores of a server

FLOPs are those of the ledger. Bytes are the update's traffic: weights, gradients and optimizer state are read and written once a step
(activations go with the FLOPs). Load on the machine does not enter. `calibrate` measures this machine's own F and B, which turn
reference seconds into seconds here; where wall-clock disagrees by more than a quarter between arms, the method spends time on what is
neither (an SVD, Python, waiting), and the report says so.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Rates:
    """Sustained FLOP/s and bytes/s."""

    flops_per_second: float
    bytes_per_second: float

    def seconds(self, flops: float, traffic: float) -> float:
        return flops / self.flops_per_second + traffic / self.bytes_per_second

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


REFERENCE = Rates(1e11, 1e10)


def update_bytes(memory: dict[str, float]) -> float:
    """Bytes that one update moves: everything that an optimizer step holds, read and written."""
    return 2.0 * sum(memory.get(kind) or 0.0 for kind in ("weights", "gradients", "optimizer_state"))


def calibrate() -> Rates:
    """This machine's rates: the best of up to ten matrix products, and the best of five copies of 128 MB, with all of this process's threads."""
    import torch

    from ..ledger.machine import matmul_rate

    source = torch.ones(32_000_000)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - began)
    return Rates(matmul_rate("cpu", torch.float32), 2.0 * source.nbytes / best)
