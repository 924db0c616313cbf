"""What the machine is, and how fast it multiplies matrices: the yardstick that utilization is measured against."""

from __future__ import annotations

import platform
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

ROWS, WIDTH = 4096, 1536
FEW, PRODUCT = 64, 0.05  # rows at least, and seconds that a product of more may take
MEASUREMENTS, ENOUGH, AGREE = 10, 4, 1.01  # at most; where the best two of so many differ by less, the machine is quiet
PROBE, PAUSE = 4, 0.05  # products in a row, and seconds until the next ones, in which another program's burst may pass
PATIENCE = 1.5  # seconds after which a slow or busy machine is measured no further
WIDE, ALONE = 1.3, 0.8  # spread above and share of the processors below which a measurement is in doubt


def matmul_rate(device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of the best of ten (4096, 1536) x (1536, 1536) products, measured once per process, device, type and thread count.

    Fewer than ten where the best two of the first agree. Fewer rows, 64 at least, where 4096 would take more than a twentieth of a
    second: the rate is the same from some hundred on.

    The best, not the mean: a busy machine slows some of them, and the yardstick is what the machine can do.
    """
    return _matmul_rate(str(torch.device(device)), dtype, torch.get_num_threads())


def matmul_doubt(device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16) -> str:
    """Why the measured rate may be less than what the machine can do, in a sentence; nothing where it was quiet."""
    matmul_rate(device, dtype)
    spread, share = _quiet.get((str(torch.device(device)), dtype, torch.get_num_threads()), (1.0, 1.0))
    found = [
        *([f"the middle one of the measurements took {spread:.1f} times as long as the best"] if spread > WIDE else []),
        *([f"other programs had {1 - share:.0%} of the processors"] if share < ALONE else []),
    ]
    return f"the machine is busy: {' and '.join(found)}; the rate, and with it the time, may be off" if found else ""


_quiet: dict[tuple[str, torch.dtype, int], tuple[float, float]] = {}  # median over best, share of the processors that was ours


@cache
def _matmul_rate(device: str, dtype: torch.dtype, threads: int) -> float:
    left, right = (torch.full(shape, 0.5, device=device, dtype=dtype) for shape in ((ROWS, WIDTH), (WIDTH, WIDTH)))
    times: list[float] = []
    with torch.no_grad():
        left = left[: _rows(left, right)]
        worked = time.process_time()
        while len(times) <= MEASUREMENTS and sum(times) < PATIENCE and not _agree(times):
            if times and len(times) % PROBE == 0:
                time.sleep(PAUSE)
            times.append(_seconds(left, right))
    ours = (time.process_time() - worked) / (sum(times) * threads) if device == "cpu" else 1.0
    _quiet[device, dtype, threads] = (statistics.median(times) / min(times), ours)
    return 2.0 * len(left) * WIDTH * WIDTH / min(times)


def _rows(left: torch.Tensor, right: torch.Tensor) -> int:
    """How many rows are measured: all where the machine is fast enough for it."""
    rows, seconds = FEW, min(_seconds(left[:FEW], right) for _ in range(2))
    while rows < len(left) and 2 * rows / FEW * seconds <= PRODUCT:
        rows *= 2
    return min(rows, len(left))


def _agree(times: list[float]) -> bool:
    """Whether nothing disturbed the best two of enough measurements."""
    best = sorted(times)[:2]
    return len(times) >= ENOUGH and best[1] < AGREE * best[0]


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    synchronize(left.device)
    start = time.perf_counter()
    torch.mm(left, right)
    synchronize(left.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for the device; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """The machine as the ledger's first line tells it: cpu, cores, memory (bytes), device, matmul_flops_per_second and what puts that in
    doubt, system, versions."""
    device = torch.device(device)
    return {
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory": psutil.virtual_memory().total,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "device_memory": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        "matmul_flops_per_second": matmul_rate(device, dtype),
        "matmul_dtype": str(dtype).removeprefix("torch."),
        "matmul_doubt": matmul_doubt(device, dtype) or None,
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or "unknown"
