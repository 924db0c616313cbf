r"""Relative positions as a bias on attention scores, by buckets of distances.   Raffel et al. 2020 (T5), arXiv:1910.10683, section 2.1.

    score_hij += B[bucket(j - i), h]

Half of the buckets (of each direction, where positions look both ways) hold one distance each, the others grow in logarithmic steps
up to ``longest``; everything beyond shares the last one. With ``shared`` the first block's table serves the whole stack, as in T5.
Distances are between places in the row, so what leaves positions out (routes, late masks, hidden patches) refuses these.

Shapes: B (buckets, H); bias (H, T, S).   Cost: H T S additions, and the bias itself, once per forward where it is shared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import label
from ...core.parts import Positive, Spec, part
from ..context import Context
from ..objectives import inside, looks_back, objectives


@part
class Relative(nn.Module):
    """buckets: how many distances are told apart. longest: from which distance on all are alike. shared: one table for the stack."""

    biases = True
    weight: Tensor | None

    def __init__(
        self,
        head_dim: int,
        heads: int = 1,
        layer: int = 0,
        *,
        buckets: Positive[int] = 32,
        longest: Positive[int] = 128,
        shared: bool = True,
    ):
        super().__init__()
        self.heads, self.buckets, self.longest, self.shared = heads, buckets, longest, shared
        self.name = f"relative/{buckets}/{longest}/{heads}"
        self.weight = nn.Parameter(torch.empty(buckets, heads)) if layer == 0 or not shared else None
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)
            label(self, "weight", "buckets", "n_heads", role="position")

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        run, asked = context.get("run"), [looks_back(one) for one in objectives(context) if len(inside(one)) == 1]
        ahead = not all(asked)  # positions look both ways, and each way has half of the buckets
        least = 4 if ahead else 2
        if knobs["buckets"] < least:
            yield f"positions that look {'both ways' if ahead else 'back'} need buckets of at least {least}, got {knobs['buckets']}"
        back = any(asked) or (run is not None and run.model.decoder is not None)
        exact = knobs["buckets"] // (2 if back else 4)
        if knobs["longest"] <= exact:
            yield f"{exact} of the buckets hold one distance each, so that longest must be above {exact}, got {knobs['longest']}"

    def bucket(self, distance: Tensor, causal: bool) -> Tensor:
        """Bucket of every distance key - query."""
        count, first = self.buckets, torch.zeros_like(distance)
        if causal:
            distance = (-distance).clamp(min=0)
        else:
            count //= 2
            first, distance = (distance > 0).long() * count, distance.abs()
        exact = count // 2
        far = exact + (torch.log(distance.float().clamp(min=1) / exact) / math.log(self.longest / exact) * (count - exact)).long()
        return first + torch.where(distance < exact, distance, far.clamp(max=count - 1))

    def bias(self, context: Context, dtype: torch.dtype) -> Tensor:
        """(H, T, S) for this forward, made by the first that asks; queries are the last positions of the keys."""
        if not self.shared or self.name not in context.shared:
            assert context.positions_BT is not None
            if self.weight is None:
                raise ValueError("shared relative positions are kept by the first block, which this forward has not run")
            queries, past, device = (
                context.positions_BT.shape[1],
                context.cache.length if context.cache is not None else 0,
                self.weight.device,
            )
            distance_TS = torch.arange(queries + past, device=device)[None] - torch.arange(past, past + queries, device=device)[:, None]
            table = F.embedding(self.bucket(distance_TS, context.causal), _whole(self.weight))
            made = table.permute(2, 0, 1).contiguous().to(dtype)
            if not self.shared:
                return made
            context.shared[self.name] = (made,)
        return context.shared[self.name][0]

    def extra_repr(self) -> str:
        return f"buckets={self.buckets}, longest={self.longest}, shared={self.shared}"


def by_place(mixer: Spec | None) -> bool:
    """Whether a mixer tells positions apart by their places among those that are there, so that none may be left out."""
    position = None if mixer is None else mixer.knobs.get("position")
    return position is not None and bool(getattr(position.target, "biases", False))


def _whole(weight: Tensor) -> Tensor:
    """The table where it is sharded: it is read before the block that holds it, and gathers its own, runs. Gradients of all ranks add up."""
    if not hasattr(weight, "full_tensor"):
        return weight
    from torch.distributed.tensor import Partial

    found: Tensor = weight.full_tensor(grad_placements=[Partial()])
    return found
