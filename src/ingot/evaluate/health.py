r"""Whether a representation is alive: effective rank, spread, alignment, uniformity and what the objective watches, with a collapse alarm.

    rank         exp(-sum_k p_k log p_k), p_k = s_k / sum s, s the singular values of the features   RankMe, Garrido et al. 2023, arXiv:2210.02885
    spread       mean over features of the standard deviation of f / |f|, times sqrt(D): 1 where directions are spread evenly, 0 where all
                 rows are alike   Chen & He 2020, arXiv:2011.10566, section 4.1
    uniformity   log mean over pairs of exp(-2 |u_i - u_j|^2), u = f / |f|; at least -4, 0 where all rows are alike
    alignment    mean |u_i - u'_i|^2 over two views of a row, or over rows of one class   Wang & Isola 2020, arXiv:2005.10242

An objective that may collapse in a way of its own says what to watch, measured on the same held-out rows: ``vitals(model, batch)`` gives
tensors per row of a prepared batch, (B, ...), and ``bands(means)`` makes of their means over all rows {measure: (value, least, most)}, such
as the perplexity of a codebook, the entropy of a teacher or the deviation of targets. What leaves its band is an alarm.

Cost: one forward over the rows, their singular values, and what the objective's vitals cost.
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
        self.bands: dict[str, tuple[float, float]] = {}  # of what the objective watches, as of the last call

    def __call__(
        self,
        model: nn.Module,
        *,
        windows: Iterable[Any],
        looks: Callable[[int], Iterable[Any]] | None = None,
        fields: Any = None,
        objective: Any = None,
    ) -> dict[str, float]:
        """rank, spread, uniformity; alignment where there are views or classes; what the objective watches."""
        labels = ("label",) if "label" in (fields or {}) else ()
        watch = Watch(objective)
        x_ND, *label = features(model, windows, self.layout, *labels, ask=watch)
        watched = watch.found(self.layout)
        self.bands = {name: (least, most) for name, (_, least, most) in watched.items()}
        found = {name: value for name, (value, _, _) in watched.items()} | {
            "rank": effective_rank(x_ND),
            "spread": spread(x_ND),
            "uniformity": uniformity(x_ND),
        }
        if looks is not None:
            one, other = (features(model, _seen(looks(self.rows), view), self.layout)[0] for view in (0, 1))
            found["alignment"] = float((F.normalize(one, dim=1) - F.normalize(other, dim=1)).square().sum(dim=1).mean())
        elif label:
            found["alignment"] = class_alignment(x_ND, label[0])
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def alarms(self, result: dict[str, float]) -> Iterator[str]:
        """One sentence per band that is left."""
        if result.get("rank", math.inf) < self.least_rank:
            yield f"the representation collapses: its effective rank is {result['rank']:.2f}, below {self.least_rank:g}"
        if result.get("spread", math.inf) < self.least_spread:
            yield f"the representation collapses: rows are alike, their spread is {result['spread']:.3f}, below {self.least_spread:g}"
        for name, (least, most) in self.bands.items():
            if name in result and not least <= result[name] <= most:
                side = f"below {least:g}" if result[name] < least else f"above {most:g}"
                yield f"what is learned collapses: {name.replace('_', ' ')} is {result[name]:.3f}, {side}"


class Watch:
    """What the model is asked for each micro-batch: its features; an objective's vitals are summed by the way."""

    def __init__(self, objective: Any):
        self.objective = objective if hasattr(objective, "vitals") else None
        self.sums: dict[str, Tensor] = {}
        self.rows = torch.zeros((), dtype=torch.float64)

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        if self.objective is not None:
            prepared = self.objective.prepare(batch)
            scored = (prepared["rows"] >= 0) & (prepared["units"] > 0)
            for name, value in self.objective.vitals(model, prepared).items():
                self.sums[name] = self.sums.get(name, 0) + value[scored].double().sum(dim=0).cpu()
            self.rows += scored.sum().cpu()
        found: Tensor = model.features(batch)
        return found

    def found(self, layout: Layout) -> dict[str, tuple[float, float, float]]:
        """measure -> value, least, most; over all ranks' rows."""
        rows = layout.total(self.rows).clamp(min=1)
        means = {name: layout.total(value) / rows for name, value in sorted(self.sums.items())}
        return dict(self.objective.bands(means)) if means and self.objective is not None else {}


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
