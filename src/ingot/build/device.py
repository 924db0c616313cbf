"""Choosing device, precision and layout: from the recipe where it says, else from what the machine has."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..core.errors import UserError
from ..core.parts import Spec
from ..core.resolve import spec
from ..ops.bf16 import multiplies_bf16

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def choose_device(wanted: str) -> torch.device:
    """``auto``: CUDA, then MPS, then CPU. Under torchrun each local rank takes its own GPU. UserError when what is wanted is missing."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        raise UserError(f"device: this machine has no {wanted}; there is {', '.join(name for name, there in available.items() if there)}")
    if wanted == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(wanted)


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


def choose_layout(wanted: Spec | str, device: torch.device) -> Any:
    """``auto``: one process alone, or under torchrun all-reduce. Starts the process group where ranks are several."""
    from ..parallel.start import start

    ranks = int(os.environ.get("WORLD_SIZE", 1))
    chosen = wanted if isinstance(wanted, Spec) else spec("parallel.layout", "replicate" if ranks > 1 else "single")
    if chosen.name != "single":
        start(device)
    elif ranks > 1:
        raise UserError(f"layout: 'single' is one process, but {ranks} were started; choose replicate or fsdp")
    return chosen.build()
