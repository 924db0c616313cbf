"""Joules that this machine's processors and GPUs drew, where the machine tells.

Processors: the package counters of Linux' powercap (RAPL, Intel and AMD), which often only root may read. GPUs: NVML's counters, through
``pynvml`` where it is installed. What cannot be read is left out; nothing is estimated. The counters are of whole packages and GPUs, so
other work on them is counted too, and of this machine alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
Counter = tuple[str, Callable[[], float], float]  # what it counts; joules so far; the joules at which it begins again at zero


class Energy:
    """since_last() gives joules since the call before, by ``cpu`` and ``gpu``; empty where no counter can be read."""

    def __init__(self, device: torch.device | str = "cpu", powercap: Path = POWERCAP):
        found = [*_packages(powercap), *(_gpus() if torch.device(device).type == "cuda" else [])]
        self._counters: list[Counter] = []
        self._before: list[float] = []
        for counter in found:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._before.append(counter[1]())
                self._counters.append(counter)

    def since_last(self) -> dict[str, float]:
        spent: dict[str, float] = {}
        for index, (kind, read, wraps) in enumerate(self._counters):
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                now = read()
                gone = now - self._before[index]
                self._before[index] = now
                spent[kind] = spent.get(kind, 0.0) + (gone if gone >= 0 else gone + wraps)
        return spent


def _packages(powercap: Path) -> list[Counter]:
    """One counter per processor package: ``intel-rapl:0``, whose parts (``intel-rapl:0:1``) it includes."""
    found: list[Counter] = []
    for zone in sorted(powercap.glob("*-rapl:*")):
        if zone.name.count(":") != 1:
            continue
        with contextlib.suppress(OSError, ValueError):
            if (zone / "name").read_text().startswith("package"):
                found.append(
                    (
                        "cpu",
                        lambda path=zone / "energy_uj": int(path.read_text()) / 1e6,
                        int((zone / "max_energy_range_uj").read_text()) / 1e6,
                    )
                )  # type: ignore[misc]
    return found


def _gpus() -> list[Counter]:
    """The GPUs of this machine's ranks."""
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver: pynvml's own errors derive from Exception alone
        return []
    found: list[Counter] = []
    for index in range(min(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count())):
        with contextlib.suppress(Exception):
            handle: Any = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}".encode())
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # older GPUs have no counter
            found.append(("gpu", lambda handle=handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, 0.0))  # type: ignore[misc]
    return found
