"""Run by test_optim.py as a process of its own: every optimizer for eight steps, on one process or as one of two FSDP2 ranks.

python _sharded_optim.py RANK RANKS STORE_FILE RESULT_FILE NAME={knobs as JSON}...      rank 0 writes {name: {"weights": ..., "bytes": ...}}
"""

from __future__ import annotations

import json
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ingot.core.axes import Axes
from ingot.core.parts import load, signature
from ingot.core.resolve import spec


def model() -> nn.Module:
    """Widths that two ranks cannot split evenly, and one weight with fewer rows than ranks."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 15), nn.Tanh(), nn.Linear(15, 9), nn.Tanh(), nn.Linear(9, 1))


def groups(net: nn.Module) -> list[dict]:
    matrices = [(name, weight, Axes(("width", "width"), "matrix")) for name, weight in net.named_parameters() if weight.dim() == 2]
    biases = [(name, weight, Axes(("width",), "bias")) for name, weight in net.named_parameters() if weight.dim() == 1]
    return [
        {
            "params": [w for _, w, _ in part],
            "names": [n for n, _, _ in part],
            "axes": [a for _, _, a in part],
            "lr_scale": scale,
            "decay": decay,
        }
        for part, scale, decay in ((matrices, 1.0, True), (biases, 0.5, False))
    ]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def train(name: str, knobs: dict, ranks: int) -> dict:
    net = model()
    if ranks > 1:
        fully_shard(net, mesh=init_device_mesh("cpu", (ranks,)))
    wraps = "lr" not in signature(load("optim", name)).knobs
    optimizer = spec("optim", name, **({"inner": {"name": "adamw", "lr": 0.01}} if wraps else {"lr": 0.01} | knobs)).build(
        params=groups(net)
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        # every rank sees the same rows, so the mean over ranks is the single process's gradient to the bit
        inputs, targets = torch.randn(32, 6, generator=generator), torch.randn(32, 1, generator=generator)

        def closure(inputs: torch.Tensor = inputs, targets: torch.Tensor = targets) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (net(inputs) - targets).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
    local = sum(
        (value.to_local() if isinstance(value, DTensor) else value).nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if value.dim()
    )
    return {"weights": {key: whole(weight.detach()).clone() for key, weight in net.named_parameters()}, "bytes": local}


def main(rank: int, ranks: int, store: str, result: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    given = [name.partition("=") for name in names]
    results = {name: train(name, json.loads(knobs or "{}"), ranks) for name, _, knobs in given}
    if rank == 0:
        torch.save(results, result)
    if ranks > 1:
        dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo sometimes aborts in its own teardown after correct work


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
