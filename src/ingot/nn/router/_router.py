"""What routers share: scores, which positions are real, capacity, side losses, counts for the ledger.

Everything is taken within a row, so that neither accumulation nor ranks change it. Positions of segment 0 and of padding rows are
not routed and not counted.

    balance    E sum_i f_i P_i of each row: f_i the share of its choices that fall on expert i, P_i the mean of its scores for i; 1 where
               even.  Fedus et al. 2021, arXiv:2101.03961, equations 4-6; by row as DeepSeek-V3, arXiv:2412.19437, equations 17-20
    router_z   mean over the row's positions of log^2 sum_i exp(logit_i).  Zoph et al. 2022, arXiv:2202.08906, equation 5
    load, routed, dropped   choices by expert, wanted, and refused, summed over the step; the ledger shows

        load_entropy   of the loads, over that of even ones: 1 is even, 0 is one expert for all
        max_load       the largest load over the mean        drop_rate   dropped / routed
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import label
from ..context import Context
from ..objectives import looks_back, objectives
from ._routes import Chosen


class Router(nn.Module):
    """side_losses: names that it leaves for the recipe to weigh. share: experts that compute a position, on average; none for all.

    weight_sum: bounds on the sum of a position's weights. local: whether a position's experts do not depend on other positions.
    """

    side_losses: tuple[str, ...] = ()
    weight_sum: tuple[float, float] = (0.0, 1.0)
    local = True
    share: float | None = None
    side: dict[str, Tensor] | None = None

    def __init__(self, experts: int):
        super().__init__()
        self.experts = experts

    def __getstate__(self) -> dict[str, Any]:
        # What the last forward left belongs to its autograd graph, which cannot be copied.
        return {**self.__dict__, "side": None}

    def counted(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """What the ledger shows of a step's counts."""
        load_E = totals["load"].double()
        share_E = load_E / load_E.sum().clamp(min=1)
        entropy = float(torch.special.entr(share_E).sum())
        return {
            "load_entropy": entropy / math.log(self.experts) if self.experts > 1 else 1.0,
            "max_load": float(share_E.max()) * self.experts,
            "drop_rate": float(totals["dropped"]) / max(1.0, float(totals["routed"])),
        }


class Scored(Router):
    """A router with a learned score of every expert at every position, computed in fp32 at least.

    Selective precision: Fedus et al. 2021, section 2.4.   weight: (E, D)
    """

    def __init__(self, width: int, experts: int):
        super().__init__(experts)
        self.weight = nn.Parameter(torch.empty(experts, width))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "experts", "width", role="matrix")

    def logits(self, x_BTD: Tensor) -> Tensor:
        """(B, T, E) in fp32, fp64 for fp64."""
        dtype = torch.promote_types(x_BTD.dtype, torch.float32)
        return F.linear(x_BTD.to(dtype), self.weight.to(dtype))


class TokenChoice(Router):
    """Positions choose experts. capacity: an expert takes at most so many times the mean load of a document; none for all that come.

    Earlier positions go first, so no choice depends on later ones. Capacity holds while training; evaluation drops nothing.
    """

    capacity: float | None

    def routes(self, experts_BTK: Tensor, weights_BTK: Tensor, context: Context, losses: Mapping[str, Tensor] | None = None) -> Chosen:
        """Leave padding out, apply the capacity, note counts and losses."""
        real_BT = real(context, experts_BTK)
        taken_BTK = real_BT[:, :, None].expand_as(experts_BTK)
        if self.training:
            if self.capacity is not None:
                taken_BTK = taken_BTK & within_capacity(experts_BTK, real_BT, context.segments_BT, self.experts, self.capacity)
            load_BE = loads(experts_BTK, real_BT, self.experts)
            wanted = load_BE.sum()
            counts = {"count/load": load_BE.sum(dim=0), "count/routed": wanted, "count/dropped": wanted - taken_BTK.sum()}
            self.side = {**(losses or {}), **counts}
        return Chosen(experts_BTK.masked_fill(~taken_BTK, self.experts), weights_BTK.masked_fill(~taken_BTK, 0), self.experts)


def real(context: Context, like_BT: Tensor) -> Tensor:
    """(B, T) positions that hold something."""
    real_BT = torch.ones(like_BT.shape[:2], dtype=torch.bool, device=like_BT.device)
    if context.segments_BT is not None:
        real_BT = context.segments_BT > 0
    if context.rows_B is not None:
        real_BT = real_BT & (context.rows_B >= 0)[:, None]
    return real_BT


def loads(experts_BTK: Tensor, real_BT: Tensor, experts: int) -> Tensor:
    """(B, E) int64: choices of each expert at the row's real positions."""
    ones = real_BT[:, :, None].expand_as(experts_BTK).long()
    zeros = torch.zeros(experts_BTK.shape[0], experts, dtype=torch.int64, device=experts_BTK.device)
    return zeros.scatter_add(1, experts_BTK.flatten(1), ones.flatten(1))


def balance(scores_BTE: Tensor, experts_BTK: Tensor, real_BT: Tensor) -> Tensor:
    """(B,) E sum_i f_i P_i; 0 for a row without real positions."""
    experts, choices = scores_BTE.shape[2], experts_BTK.shape[2]
    count_B1 = real_BT.sum(dim=1, keepdim=True).clamp(min=1)
    f_BE = loads(experts_BTK, real_BT, experts) / (count_B1 * choices)
    p_BE = (scores_BTE * real_BT[:, :, None]).sum(dim=1) / count_B1
    return experts * (f_BE.to(p_BE.dtype) * p_BE).sum(dim=1)


def router_z(logits_BTE: Tensor, real_BT: Tensor) -> Tensor:
    """(B,) mean squared log-normalizer over the row's real positions."""
    square_BT = logits_BTE.logsumexp(dim=-1).square() * real_BT
    return square_BT.sum(dim=1) / real_BT.sum(dim=1).clamp(min=1)


def within_capacity(experts_BTK: Tensor, real_BT: Tensor, segments_BT: Tensor | None, experts: int, capacity: float) -> Tensor:
    """(B, T, K) whether an expert still had room in the document: ceil(capacity K length / E) choices, earlier positions first."""
    rows, length, choices = experts_BTK.shape
    start_BT = document_starts(segments_BT, real_BT)
    size_BT = torch.zeros_like(start_BT).scatter_add(1, start_BT, real_BT.long()).gather(1, start_BT)
    # A hair below, so that an exact multiple that floating point puts above itself is not rounded up.
    room_BT = (size_BT.double() * (capacity * choices / experts) - 1e-9).ceil().long()
    hot = F.one_hot(experts_BTK, experts).int() * real_BT[:, :, None, None].int()  # (B, T, K, E)
    through = hot.flatten(1, 2).cumsum(dim=1, dtype=torch.int32)  # (B, T K, E) choices so far, this one included
    before = F.pad(through, (0, 0, 1, 0)).gather(
        1, (start_BT * choices)[:, :, None].expand(-1, -1, experts)
    )  # (B, T, E) before the document
    mine_BTK = through.view(rows, length, choices, experts).gather(3, experts_BTK[..., None]).squeeze(3)
    return mine_BTK - before.gather(2, experts_BTK) <= room_BT[:, :, None]


def document_starts(segments_BT: Tensor | None, like_BT: Tensor) -> Tensor:
    """(B, T) where the position's document begins in the row."""
    places_BT = torch.arange(like_BT.shape[1], device=like_BT.device).expand(like_BT.shape)
    if segments_BT is None:
        return torch.zeros_like(places_BT)
    new_BT = F.pad(segments_BT[:, 1:] != segments_BT[:, :-1], (1, 0))
    return torch.where(new_BT, places_BT, 0).cummax(dim=1).values


def constant_weight(knobs: Mapping[str, Any]) -> Iterable[str]:
    """Why a router that chooses the best would not learn from the loss."""
    if knobs["normalize"] and knobs["top_k"] == 1:
        yield "normalize makes the one weight of top_k=1 a constant, so the router would never learn; leave it out"


def one_unit_a_row(name: str, context: Mapping[str, Any]) -> str:
    """Why a router that works on whole rows cannot work on this run's rows, or nothing."""
    run = context.get("run")
    datas = [] if run is None else [run.data, *(stage.data for stage in run.stages if stage.data is not None)]
    for data in datas:
        texts = any(spec.slot == "data.source" and hasattr(spec.target, "shards") for _, spec in data.train.walk())
        if texts and data.pack.name != "document" and data.pack.knobs.get("attend", "document") == "document":
            return (
                f"{name} routes whole rows, and rows packed by {data.pack.name!r} hold documents that must not see each other; "
                "use data.pack document, or {name: stream, attend: row}"
            )
    return ""


def causal_objectives(context: Mapping[str, Any]) -> list[str]:
    """Names of the run's objectives whose encoder must not look ahead."""
    return [objective.name for objective in objectives(context) if looks_back(objective)]
