"""Adam's arithmetic in one pass over memory, and how other rules take theirs through a CPU's cache.

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2        w = (1 - decay) w - rate m / (sqrt(v) + eps)

Bias corrections are the caller's, by rate and eps: lr sqrt(1 - b2^t) / (1 - b1^t), and eps sqrt(1 - b2^t) where eps is added after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

_FUSED = {"cpu", "cuda"}
_LATE = 1e9  # a step at which torch's own bias corrections are 1
_PIECE = 2**17  # elements a thread: less, and the calls cost more than the arithmetic
_LAUNCH = 2**26


def adam_(
    target: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    betas: tuple[float, float],
    eps: float,
    rate: float,
    decay: float = 0.0,
) -> None:
    """Update both moments and the target, all of one shape, in place; by torch's fused kernel where there is one."""
    if fusible(target, gradient, first, second):
        late = torch.full((), _LATE, dtype=torch.float32, device=target.device)
        torch._fused_adamw_(
            [target],
            [gradient],
            [first],
            [second],
            [],
            [late],
            lr=rate,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=decay / rate if rate else 0.0,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )
        return
    first.lerp_(gradient, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    target.mul_(1 - decay).addcdiv_(first, second.sqrt().add_(eps), value=-rate)


def fusible(*operands: Tensor) -> bool:
    """Whether torch's fused kernels take these tensors, which they read as they lie in memory."""
    alike = len({value.dtype for value in operands}) == 1 and all(value.is_contiguous() and value.numel() for value in operands)
    return alike and operands[0].device.type in _FUSED


def pieces(*operands: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Lists of equally shaped tensors in turn, for several operations to go over them: on a CPU views of a piece of one at a time,
    elsewhere all of them at once, which one launch does."""
    if not operands[0] or operands[0][0].device.type != "cpu":
        yield operands
        return
    for alike in zip(*operands):
        parts = _parts(alike[0])
        if parts == 1 or not all(value.is_contiguous() for value in alike):
            yield tuple([value] for value in alike)
            continue
        cut = zip(*(value.view(-1).tensor_split(parts) for value in alike))
        for some in [next(cut)] if isinstance(alike[0], FakeTensor) else cut:  # in a forecast the first stands for all
            yield tuple([part] for part in some)


def slabs(values: Tensor) -> Iterator[Any]:
    """Indices of a tensor's first dimension to work on in turn, slices where it has one; in a forecast the first alone."""
    if not values.dim():
        yield ...
        return
    step = max(1, -(-len(values) // _parts(values)))
    for start in [0] if isinstance(values, FakeTensor) else range(0, len(values), step):
        yield slice(start, start + step)


def _parts(values: Tensor) -> int:
    """In how many parts to work: on a CPU such as stay in its cores' caches, elsewhere such as bound the memory of temporaries."""
    size = _PIECE * torch.get_num_threads() if values.device.type == "cpu" else _LAUNCH
    return max(1, round(values.numel() / size))
