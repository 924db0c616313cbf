r"""Mixture of experts: many feed-forwards, of which each position is computed by few.   Shazeer et al. 2017, arXiv:1701.06538.

    y = shared(x) + sum over chosen experts i of  g_i E_i(x)        what is chosen, and g: the router

Any feed-forward can be the expert; its matrices are stacked, (E, out, in), and rows are sorted by expert and multiplied group by
group (ops/grouped.py). Without ``capacity_factor`` nothing is dropped (as MegaBlocks, Gale et al. 2022, arXiv:2211.15841). With it an
expert takes ceil(capacity_factor k n / E) choices of each document of n positions; what is over passes through the residual alone.
Shared experts: DeepSeekMoE, Dai et al. 2024, arXiv:2401.06066, section 3.2.

DEPARTS: capacity counts within a document, not within what a device happens to hold, so that accumulation and ranks change nothing;
it holds while training only, since a text that is generated has no known length.

Shapes: x_BTD, expert matrices (E, out, in).   State: the router's.
Cost: that of k experts and of shared per position, and the router's; parameters: E experts, of which k are active.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...core.parts import NonNegative, Positive, Slot, Spec, part, signature, walk_specs
from ..context import Context
from ._experts import Stacked


@part
class MoE(nn.Module):
    """experts: E. expert: what each of them is. router: which one computes what. shared: one that computes every position.

    capacity_factor: most choices of an expert, over the mean; none drops nothing. Layers before ``first_dense``, and those that are not
    every ``every``-th, are ``dense`` (as the expert when not given).
    """

    def __init__(
        self,
        width: int,
        linear: Spec,
        layer: int = 0,
        *,
        experts: Positive[int],
        router: Slot["nn.router"] = "top_k",
        expert: Slot["nn.feedforward"] = "swiglu",
        shared: Slot["nn.feedforward"] | None = None,
        capacity_factor: Positive[float] | None = None,
        every: Positive[int] = 1,
        first_dense: NonNegative[int] = 0,
        dense: Slot["nn.feedforward"] | None = None,
    ):
        super().__init__()
        self.dense: nn.Module | None = None
        if not _sparse(layer, every, first_dense):
            self.dense = (dense or expert).build(width=width, linear=linear, layer=layer)
            return
        given = {} if capacity_factor is None else {"capacity": capacity_factor}
        self.router = router.build(width=width, experts=experts, layer=layer, **given)
        stacked = Stacked(experts, min(1.0, (self.router.share or experts) / experts))
        self.groups = stacked.groups
        self.experts = expert.build(width=width, linear=stacked, layer=layer)
        self.shared = shared.build(width=width, linear=linear, layer=layer) if shared else None
        self.caches = getattr(self.router, "caches", True)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        experts, router = knobs["experts"], knobs["router"]
        if router.knobs.get("top_k", 1) > experts:
            yield f"router {router.name!r} chooses {router.knobs['top_k']} of {experts} experts; top_k must not exceed experts"
        if knobs["capacity_factor"] is not None and "capacity" not in signature(router.target).wiring:
            yield f"router {router.name!r} sets each expert's load itself; leave capacity_factor out"
        for name in ("expert", "shared", "dense"):
            if knobs[name] is not None and knobs[name].name == "moe":
                yield f"{name} cannot itself be a mixture of experts"
        stack = _stack(knobs, context)
        if stack is None:
            return
        linear = stack.knobs.get("linear")
        if linear is not None and linear.name != "dense":
            yield f"experts are stacks of dense matrices, which linear {linear.name!r} would not enter; use linear dense, or another feed-forward"
        every, first, depth = knobs["every"], knobs["first_dense"], stack.knobs["depth"]
        if not any(_sparse(layer, every, first) for layer in range(depth)):
            yield f"every {every} and first_dense {first} leave no mixture among the {depth} layers of the stack; lower them"

    def forward(self, x_BTD: Tensor, context: Context | None = None) -> Tensor:
        if self.dense is not None:
            return self.dense(x_BTD, context)
        if context is None:
            context = Context(torch.arange(x_BTD.shape[1], device=x_BTD.device).expand(x_BTD.shape[:2]))
        routes = self.router(x_BTD, context)
        inputs_MD = routes.dispatch(x_BTD)
        self.groups.ends_E = routes.ends_E
        y_BTD = routes.combine(self.experts(inputs_MD, context))
        self.groups.ends_E = None
        return y_BTD if self.shared is None else y_BTD + self.shared(x_BTD, context)


def _sparse(layer: int, every: int, first_dense: int) -> bool:
    """Whether a layer is a mixture."""
    return layer >= first_dense and (layer + 1) % every == 0


def _stack(knobs: dict[str, Any], context: dict[str, Any]) -> Spec | None:
    """The innermost stack of layers that has this very mixture as its feed-forward; None where there is no run to look in."""
    run = context.get("run")
    graph = None if run is None else run.model
    places = [] if graph is None else [graph.encoder, graph.decoder, *(one.encoder for one in graph.towers.values()), graph.objective]
    stacks = [spec for place in places for _, spec in walk_specs(place) if "depth" in spec.knobs]
    return next((stack for stack in reversed(stacks) if any(inner.knobs is knobs for _, inner in stack.walk())), None)
