"""Choosing device, precision and layout: from the recipe where it says, else from what the machine has."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..core.errors import UserError
from ..core.limits import cores
from ..core.parts import Spec
from ..core.resolve import spec
from ..ops.bf16 import multiplies_bf16

ALONE = "alone"  # no recipe's layout: of a run beside the one that is trained, which each rank opens for itself
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def choose_device(wanted: str) -> torch.device:
    """``auto``: CUDA, then CPU; MPS, which has no float64 for what some parts draw and measure, only where it is named. Under torchrun
    each local rank takes its own GPU. UserError when what is wanted is missing."""
    from ..parallel.start import own_gpu

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = "cuda" if available["cuda"] else "cpu"
    if not available[wanted]:
        raise UserError(f"device: this machine has no {wanted}; there is {', '.join(name for name, there in available.items() if there)}")
    return own_gpu() if wanted == "cuda" else torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 where the device multiplies it natively, else fp32."""
    if wanted != "auto":
        if wanted == "fp64" and device.type == "mps":
            raise UserError("precision: MPS has no fp64")
        return DTYPES[wanted]
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


def slow_precision(dtype: torch.dtype, device: torch.device) -> str:
    """Why a type that was asked for will be slow, in a sentence; nothing where it is not known to be."""
    if dtype != torch.bfloat16 or device.type not in ("cpu", "cuda") or multiplies_bf16(device):
        return ""
    return (
        f"precision: this {'processor' if device.type == 'cpu' else 'GPU'} has no instructions for bf16, and may take many times "
        "as long with it as with fp32; precision=auto takes what is fast"
    )


def cores_to_spare(device: torch.device) -> bool:
    """Whether something can go on beside the steps without taking cores from them."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return device.type != "cpu" or torch.get_num_threads() * processes < cores()


def choose_layout(wanted: Spec | str, device: torch.device) -> Any:
    """``auto``: one process alone, or under torchrun all-reduce. Starts the process group where ranks are several."""
    from ..parallel.layout._processes import Alone
    from ..parallel.start import start

    if wanted == ALONE:
        return Alone()
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    chosen = wanted if isinstance(wanted, Spec) else spec("parallel.layout", "replicate" if ranks > 1 else "single")
    if chosen.name != "single":
        start(device)
    elif ranks > 1:
        raise UserError(f"layout: 'single' is one process, but {ranks} were started; choose replicate or fsdp")
    return chosen.build()
