"""Copies of a model's weights that a hook keeps: checked and cut as the live ones are, and put into the model for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from ..core.errors import RunError


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def put_back_shards(model: nn.Module) -> None:
    """After a forward without backward a sharded root still shows whole weights, not its own."""
    for module in model.modules():
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            cast(Any, module).reshard()


def fit(kept: dict[str, Tensor], weights: Mapping[str, Tensor], what: str) -> None:
    """Check that the copies are of these weights, and put loaded ones where these are, cut alike. Raises RunError where they are of others."""
    for name, weight in weights.items():
        copy = kept.get(name)
        if copy is None or copy.shape != weight.shape:
            raise RunError(f"the {what} holds no weight {name!r} of shape {tuple(weight.shape)}: the model has changed since it began")
        if copy.device != weight.device:
            copy = kept[name] = copy.to(weight.device)
        if isinstance(weight, DTensor) and not isinstance(copy, DTensor):
            copies = DTensor.from_local(copy, weight.device_mesh, [Replicate()] * weight.device_mesh.ndim, run_check=False)
            kept[name] = copies.redistribute(placements=weight.placements)


@contextmanager
def swapped(model: nn.Module, kept: dict[str, Tensor], what: str) -> Iterator[None]:
    """Within, the model holds the copies; after, its own weights again, bit for bit."""
    put_back_shards(model)
    weights = dict(model.named_parameters())
    fit(kept, weights, what)
    own = {name: local(weight).detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                local(weight).copy_(local(kept[name]))
        yield
    finally:
        put_back_shards(model)
        with torch.no_grad():
            for name, weight in weights.items():
                local(weight).copy_(own[name])
