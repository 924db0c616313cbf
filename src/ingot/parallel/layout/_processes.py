"""What every layout shares: ranks, sums, norms and messages over the default process group, or alone without one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ...core.sums import wide


class Processes:
    """rank of ranks. Every method that moves data is collective: all ranks call it, in the same order."""

    def __init__(self) -> None:
        self.grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.grouped else 0
        self.ranks = dist.get_world_size() if self.grouped else 1
        self.model: nn.Module | None = None

    def syncing(self, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward of one micro-batch; last: no further backward follows before reduce()."""
        return nullcontext()

    def reduce(self) -> None:
        """After the last backward: gradients become sums over ranks."""

    def total(self, values: Tensor) -> Tensor:
        """Sum over ranks, element by element: wide for floating point, int64 for whole numbers; on the device of `values`."""
        sums = wide(values.detach()) if values.is_floating_point() else values.detach().to(torch.int64)
        if self.ranks == 1:
            return sums
        moved = sums.to(self._device(), copy=True)
        dist.all_reduce(moved)
        return moved.to(values.device)

    def clip_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Euclidean norm of all gradients, float64 scalar, the same on every rank; each sharded gradient counts once."""
        whole, shards = [], []
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            if not isinstance(gradient, DTensor):
                whole.append(gradient)
            elif all(placement.is_replicate() for placement in gradient.placements):
                whole.append(gradient.to_local())
            else:
                shards.append(gradient.to_local())
        squares = _squares(whole) + (self.total(_squares(shards)) if self.grouped else _squares(shards))
        return squares.sqrt()

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.ranks > 1:
            dist.barrier()

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        if self.ranks == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank."""
        if self.ranks == 1:
            return [value]
        found: list[Any] = [None] * self.ranks
        dist.all_gather_object(found, value)
        return found

    def _device(self) -> torch.device:
        """Where the group's collectives want their tensors."""
        return torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend() else torch.device("cpu")


class Alone(Processes):
    """This process by itself, whatever group it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.rank, self.ranks = False, 0, 1

    def shard(self, model: nn.Module, dtype: torch.dtype) -> nn.Module:
        """The model unchanged."""
        self.model = model
        return model


def _squares(gradients: list[Tensor]) -> Tensor:
    """Sum of squares: a norm per tensor, squared and added in float64 so that large models do not overflow or lose digits."""
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    norms = torch.stack([wide(norm) for norm in torch._foreach_norm(gradients)])
    return norms.square().sum().cpu().double()
