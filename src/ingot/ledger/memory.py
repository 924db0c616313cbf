"""Where the bytes are: weights, gradients and optimizer state exactly, the process and the device as the system counts them.

Every figure is this rank's own: a sharded tensor counts its local part. Storage that several tensors share counts once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..core.limits import memory_left


def tensor_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the distinct storages behind the tensors; what is not a tensor is passed over."""
    seen: dict[Any, int] = {}
    for tensor in tensors:
        for part in _plain(tensor):
            storage = part.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
    return sum(seen.values())


def _plain(tensor: Any) -> Iterable[Tensor]:
    """The ordinary tensors inside one that may be sharded or quantized."""
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    if not isinstance(tensor, Tensor):
        return
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
    else:
        for name in flatten()[0]:
            yield from _plain(getattr(tensor, name))


def weight_bytes(model: nn.Module) -> int:
    """Parameters and buffers."""
    return tensor_bytes([*model.parameters(), *model.buffers()])


def gradient_bytes(model: nn.Module) -> int:
    """Gradients that exist right now."""
    return tensor_bytes(parameter.grad for parameter in model.parameters() if parameter.grad is not None)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Every tensor in the optimizer's state, nested ones included."""
    return tensor_bytes(_leaves(list(optimizer.state.values())))


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def process_memory() -> int:
    """Bytes the process holds now, file-backed pages (such as mapped token stores) left out where the system tells them apart."""
    return _status("RssAnon") or psutil.Process().memory_info().rss


def process_peak() -> int:
    """Most bytes the process ever held (VmHWM, else getrusage)."""
    peak = _status("VmHWM")
    if peak:
        return peak
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def _status(key: str) -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def available(device: torch.device | str = "cpu") -> int:
    """Bytes a run could still take on the device; of the host's memory no more than what its control groups allow."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(min(psutil.virtual_memory().available, memory_left()))


def measure(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, device: torch.device | str = "cpu") -> dict[str, int]:
    """The ledger's ``memory`` entry: weights, gradients, optimizer_state, process, process_peak and, on CUDA, device_peak."""
    figures = {
        "process_peak": process_peak(),
        "process": process_memory(),
        "weights": weight_bytes(model),
        "gradients": gradient_bytes(model),
        "optimizer_state": state_bytes(optimizer) if optimizer is not None else 0,
    }
    device = torch.device(device)
    if device.type == "cuda":
        figures["device_peak"] = torch.cuda.max_memory_allocated(device)
        figures["device_reserved"] = torch.cuda.max_memory_reserved(device)
    return figures
