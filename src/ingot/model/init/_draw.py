"""Filling parameters one by one, each from a generator seeded by (seed, its name) alone.

So a parameter's initial value does not depend on which others exist, on their order, on ranks or on the device.
A module that wants other values than its roles' offers ``initial(name, generator) -> Tensor | None``. A linear that holds a
matrix in another form (``whole``: axes and shape of that matrix) offers ``draw_whole(generator, std)``: values by name, buffers
included, such that the matrix has the standard deviation a dense one would get in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.axes import Axes, axes_of


def generator_for(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fill(model: nn.Module, seed: int, std: Callable[[str, Axes, tuple[int, ...]], float]) -> None:
    """Gains become 1, biases 0, all else normal with mean 0 and the given standard deviation; what modules offer goes first."""
    modules, axes = dict(model.named_modules()), axes_of(model)
    with torch.no_grad():
        done = _draw_wholes(modules, seed, std)
        for name, parameter in model.named_parameters():
            if name in done:
                continue
            owner, _, short = name.rpartition(".")
            generator = generator_for(seed, name)
            special: Callable[[str, torch.Generator], Tensor | None] | None = getattr(modules[owner], "initial", None)
            values = special(short, generator) if special is not None else None
            if values is not None:
                _assign(parameter, values)
            elif axes[name].role in ("scale", "bias"):
                parameter.fill_(1.0 if axes[name].role == "scale" else 0.0)
            else:
                shape = tuple(parameter.shape)
                _assign(parameter, torch.empty(shape).normal_(0.0, std(name, axes[name], shape), generator=generator))


def _assign(target: Tensor, values: Tensor) -> None:
    """Put whole values into a tensor; into a slice of one, its part of them."""
    if hasattr(target, "placements"):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values.to(target.dtype), target.device_mesh, target.placements, src_data_rank=None)  # type: ignore[attr-defined]
    target.copy_(values)


def _draw_wholes(modules: Mapping[str, nn.Module], seed: int, std: Callable[[str, Axes, tuple[int, ...]], float]) -> set[str]:
    """Fill what stands for a dense matrix, each from (seed, its layer's name); returns the names that are done."""
    done = set()
    for path, module in modules.items():
        draw: Callable[[torch.Generator, float], dict[str, Tensor]] | None = getattr(module, "draw_whole", None)
        if draw is None:
            continue
        whole: Any = module.whole
        wanted = std(f"{path}.weight", Axes(whole.names, "matrix"), whole.shape)
        for short, values in draw(generator_for(seed, path), wanted).items():
            _assign(getattr(module, short), values)
            done.add(f"{path}.{short}")
    return done


def adds_to_residual(axes: Axes) -> bool:
    """Whether a matrix writes into the residual stream from within a layer: its outputs are the width, its inputs are not.

    An experts axis counts such matrices.
    """
    names = [name for name in axes.names if name != "experts"]
    return axes.role == "matrix" and names[0] == "width" and names[-1] != "width"


def depth_of(model: nn.Module) -> int:
    """Blocks of the model's own encoder and decoder together."""
    return sum(
        int(getattr(stack, "depth", 0)) for stack in (getattr(model, "encoder", None), getattr(model, "decoder", None)) if stack is not None
    )
