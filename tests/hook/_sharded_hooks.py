"""Run by test_sharded.py as one of the ranks: clipping and averaging on FSDP2 shards.   python _sharded_hooks.py RANK RANKS STORE RESULT"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ingot.core.resolve import spec


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def main(rank: int, ranks: int, store: str, result: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, plain = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 1)), nn.Parameter(torch.randn(3))
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
        fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
    model.register_parameter("plain", plain)  # a weight that no layout has sharded
    state, clip, ema = SimpleNamespace(model=model), spec("hook", "clip", max_norm=0.3).build(), spec("hook", "ema", decay=0.5).build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, norms = torch.randn(16, 5), []
    for step in range(4):
        optimizer.zero_grad()
        ((model(inputs) - 3).square().mean() + plain.square().sum()).backward()
        norms.append(clip.grads(state)["grad_norm"])
        optimizer.step()
        ema.stepped(state, {})
        if step == 1:  # a checkpoint may bring the average back whole
            ema.load_state_dict({"updates": ema.updates} | {f"average.{name}": whole(tensor) for name, tensor in ema.average.items()})
    with ema.averaged(model):
        inside = {name: whole(weight) for name, weight in model.named_parameters()}
    after = {name: whole(weight) for name, weight in model.named_parameters()}
    if rank == 0:
        torch.save({"norms": torch.tensor(norms), "inside": inside, "after": after}, result)
    if ranks > 1:
        dist.barrier()
    os._exit(0)  # gloo sometimes aborts in its own teardown after correct work


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
