r"""Whether the right row of the other side is among the nearest, both ways: recall at k.   Radford et al. 2021 (CLIP), arXiv:2103.00020, table 13.

    forward R@k    share of rows whose k nearest of the other side (by cosine) hold a hit        backward R@k    the same from the other side

A hit is a row of the same ``concept`` where the data has that key, else the row itself: captions that differ in a detail alone are not
held against the model. chance: R@1 of drawing at random.   Cost: one forward over the held-out rows, 2 d per pair of rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.parts import Positive, part
from ._features import features

if TYPE_CHECKING:
    from ..core.seams import Layout


@part
class Retrieval:
    """at: the values of k."""

    def __init__(self, layout: Layout, *, at: list[Positive[int]] = [1, 10]):
        self.layout, self.at = layout, at

    def __call__(self, model: nn.Module, *, windows: Iterable[Any], objective: Any, fields: Any) -> dict[str, float]:
        """forward_R@k, backward_R@k, chance."""
        if not hasattr(objective, "vectors"):
            raise UserError("retrieval compares two sides, which only objectives such as clip and siglip have")
        keys = ("concept",) if "concept" in (fields or {}) else ()
        both, *concept = features(model, windows, self.layout, *keys, ask=sides)
        kind = concept[0] if concept else torch.arange(len(both))
        return recall(both, kind, self.at)


def sides(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Vectors of both sides next to each other, (B, 2 d)."""
    return torch.cat(list(model.objective.represent(model, batch).values()), dim=1)


def recall(both: Tensor, kind: Tensor, at: list[int]) -> dict[str, float]:
    """R@k both ways of (N, 2 d) vectors whose rows are of these kinds, (N,)."""
    u, v = both.chunk(2, dim=1)
    same = kind[:, None] == kind[None]
    found = {"chance": float(same.double().mean())}
    for name, scores, hits in (("forward", u @ v.T, same), ("backward", v @ u.T, same.T)):
        order = scores.topk(min(max(at), len(scores)), dim=1).indices
        right = hits.gather(1, order)
        found |= {f"{name}_R@{k}": float(right[:, :k].any(dim=1).double().mean()) for k in at}
    return found
