"""Every rank holds the whole model; gradients are summed over ranks once per step.

    g = sum_r g_r          over ranks r, each g_r already divided by the units of the whole step

Sums, never means: the loop has divided once. The sum runs after the last backward of the window, in buckets.

State: none.   Cost: one all-reduce of the gradients a step; one bucket of extra memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...core.parts import part
from ...core.quantities import Bytes, Quantity
from ._processes import Processes


@part
class Replicate(Processes):
    """bucket: how many bytes of gradients cross ranks in one message."""

    def __init__(self, *, bucket: Bytes = Quantity(32 * 1024**2, "bytes")) -> None:  # noqa: B008
        super().__init__()
        self.bucket = int(bucket.value)

    def shard(self, model: nn.Module, dtype: torch.dtype) -> nn.Module:
        """The model with rank 0's parameters and buffers on every rank."""
        self.model = model
        if self.ranks > 1:
            with torch.no_grad():
                for tensor in (*model.parameters(), *model.buffers()):
                    dist.broadcast(tensor, src=0)
        return model

    def reduce(self) -> None:
        """Sum gradients over ranks. A parameter that only some ranks used counts as zero on the others; one that none used stays None."""
        if self.ranks == 1 or self.model is None:
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        used = self.total(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int64))
        for parameter, count in zip(parameters, used.tolist(), strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in self._buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, part_ in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(part_.view_as(gradient))

    def _buckets(self, gradients: list[Tensor]) -> Iterator[list[Tensor]]:
        """Neighbours of one dtype, up to the bucket's size; the same on every rank."""
        bucket: list[Tensor] = []
        held = 0  # bytes
        for gradient in gradients:
            if bucket and (held + gradient.nbytes > self.bucket or bucket[0].dtype != gradient.dtype):
                yield bucket
                bucket, held = [], 0
            bucket.append(gradient)
            held += gradient.nbytes
        if bucket:
            yield bucket
