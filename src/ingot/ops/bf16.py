"""Whether a device multiplies bf16 natively; where it does not, a product in bf16 may take a hundred times as long as one in fp32."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """True for GPUs with bf16 units and for processors with bf16 products; False where it is emulated and where nothing is known."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_has_bf16()


@cache
def cpu_has_bf16() -> bool:
    """Whether the processor has bf16 dot products (AVX512-BF16, AMX or Arm's)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(f" {flag}" in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))
