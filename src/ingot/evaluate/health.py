r"""Whether a representation is alive: effective rank, spread, alignment and uniformity, with a collapse alarm.

    rank         exp(-sum_k p_k log p_k), p_k = s_k / sum s, s the singular values of the features   RankMe, Garrido et al. 2023, arXiv:2210.02885
    spread       mean over features of the standard deviation of f / |f|, times sqrt(D): 1 where directions are spread evenly, 0 where all
                 rows are alike   Chen & He 2020, arXiv:2011.10566, section 4.1
    uniformity   log mean over pairs of exp(-2 |u_i - u_j|^2), u = f / |f|; at least -4, 0 where all rows are alike
    alignment    mean |u_i - u'_i|^2 over two views of a row, or over rows of one class   Wang & Isola 2020, arXiv:2005.10242

Cost: one forward over the rows, and their singular values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.parts import NonNegative, Positive, part
from ._features import features

if TYPE_CHECKING:
    from ..core.seams import Layout


@part
class Health:
    """least_rank, least_spread: below these the representation counts as collapsed. rows: of the pairs of views."""

    def __init__(
        self, layout: Layout, *, least_rank: Positive[float] = 2.0, least_spread: NonNegative[float] = 0.1, rows: Positive[int] = 512
    ):
        self.layout, self.least_rank, self.least_spread, self.rows = layout, least_rank, least_spread, rows

    def __call__(
        self, model: nn.Module, *, windows: Iterable[Any], looks: Callable[[int], Iterable[Any]] | None = None, fields: Any = None
    ) -> dict[str, float]:
        """rank, spread, uniformity; alignment where there are views or classes."""
        labels = ("label",) if "label" in (fields or {}) else ()
        x_ND, *label = features(model, windows, self.layout, *labels)
        found = {"rank": effective_rank(x_ND), "spread": spread(x_ND), "uniformity": uniformity(x_ND)}
        if looks is not None:
            one, other = (features(model, _seen(looks(self.rows), view), self.layout)[0] for view in (0, 1))
            found["alignment"] = float((F.normalize(one, dim=1) - F.normalize(other, dim=1)).square().sum(dim=1).mean())
        elif label:
            found["alignment"] = class_alignment(x_ND, label[0])
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def alarms(self, result: dict[str, float]) -> Iterator[str]:
        """One sentence per band that is left."""
        if result["rank"] < self.least_rank:
            yield f"the representation collapses: its effective rank is {result['rank']:.2f}, below {self.least_rank:g}"
        if result["spread"] < self.least_spread:
            yield f"the representation collapses: rows are alike, their spread is {result['spread']:.3f}, below {self.least_spread:g}"


def effective_rank(x_ND: Tensor) -> float:
    """RankMe of features, between 1 and min(N, D)."""
    s = torch.linalg.svdvals(x_ND)
    p = s / s.sum().clamp(min=1e-300)
    return float(torch.exp(-(p * torch.log(p + 1e-7)).sum()))


def spread(x_ND: Tensor) -> float:
    return float(F.normalize(x_ND, dim=1).std(dim=0).mean() * x_ND.shape[1] ** 0.5) if len(x_ND) > 1 else math.nan


def uniformity(x_ND: Tensor) -> float:
    return float((-2 * torch.pdist(F.normalize(x_ND, dim=1)).square()).exp().mean().log()) if len(x_ND) > 1 else math.nan


def class_alignment(x_ND: Tensor, class_N: Tensor) -> float:
    """Mean squared distance of pairs of one class."""
    u_ND = F.normalize(x_ND, dim=1)
    same = (class_N[:, None] == class_N[None]) & (class_N >= 0)[:, None]
    same.fill_diagonal_(False)
    return float((2 - 2 * u_ND @ u_ND.T)[same].mean()) if same.any() else math.nan


def _seen(windows: Iterable[list[dict[str, Tensor]]], view: int) -> Iterator[list[dict[str, Tensor]]]:
    """The windows with the wanted view in the place of the first."""
    for window in windows:
        yield [
            micro | {key.removesuffix(f"_{view}"): value for key, value in micro.items() if view and key.endswith(f"_{view}")}
            for micro in window
        ]
