"""Run by test_relora.py as one of the ranks: restarts of factors on FSDP2 shards.   python _sharded_relora.py RANK RANKS STORE RESULT"""

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
from ingot.model.init._draw import fill


def main(rank: int, ranks: int, store: str, result: str) -> None:
    torch.set_num_threads(1)
    linear = spec("nn.linear", "relora", rank=3)
    # sizes that two ranks cannot halve
    model = nn.Sequential(
        *(
            linear.build(inputs=inputs, outputs=outputs, bias=True, axes=("hidden", "width"), role="matrix")
            for inputs, outputs in ((5, 7), (7, 9))
        )
    ).double()
    fill(model, 1, lambda name, axes, shape: 0.3)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
        fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, hook = torch.optim.AdamW(trained, lr=0.05), spec("hook", "relora", every=2).build()
    inputs, outputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), []
    for step in range(1, 6):
        optimizer.zero_grad()
        outputs.append(model(inputs))
        (outputs[-1] - 3).square().mean().backward()
        optimizer.step()
        hook.stepped(SimpleNamespace(model=model, optimizer=optimizer, progress=SimpleNamespace(steps=step)), {})
    found = {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()
        for name, weight in model.named_parameters()
    }
    if rank == 0:
        torch.save(found | {"output": outputs[-1].detach()}, result)
    if ranks > 1:
        dist.barrier()
    os._exit(0)  # gloo sometimes aborts in its own teardown after correct work


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
