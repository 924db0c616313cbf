"""Choosing the micro-batch so that a step fits the memory there is, by forecast, without trying."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import torch

if TYPE_CHECKING:
    from .run import Run


def available_bytes(run: Run) -> int:
    """Memory a rank may use: the recipe's cap, or what is free now; ranks on one machine share its memory."""
    if run.device.type == "cuda":
        free = torch.cuda.mem_get_info(run.device)[0]
    else:
        free = psutil.virtual_memory().available // run.layout.ranks
    cap = run.section.memory
    return min(int(free * 0.9), int(cap.value)) if cap is not None else int(free * 0.8)


def fitting_micro_rows(run: Run, index: int, rows: int) -> int:
    """The largest micro-batch that is predicted to fit; the smallest answer of all ranks."""
    from .plan import choose

    chosen = min(run.layout.gather(choose(run, index, rows, available_bytes(run))))
    micros = -(-rows // chosen)
    return -(-rows // micros)
