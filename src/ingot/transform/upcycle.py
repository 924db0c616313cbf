r"""Sparse upcycling: every expert starts as the dense feed-forward.   Komatsuzaki et al. 2022, arXiv:2212.05055, section 3.

    E_i = FFN for all i        y = sum of g_i E_i(x) over the chosen i = FFN(x)  where the weights of a position sum to 1

The router is new, and sends equal experts different positions; that is what tells them apart. With a router whose weights sum to 1
(top_k of 2 and more) and nothing dropped, the function is exactly preserved; with another it is not, and ``preserves`` says so.

State: of every expert the dense one's, with the share of the gradient that falls on it: the experts' gradients add up to the dense
one, so momenta take 1/E and second moments 1/E^2 (exact on average; the paper carries Adafactor's moments whole for vision models).
The router starts afresh.   Cost: a copy; a step costs as ``moe`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from ..core.parts import NonNegative, Positive, Slot, part
from ._carry import Take
from ._experts import role_of, with_experts

if TYPE_CHECKING:
    from ..core.seams import Snapshot, Target


@part
class Upcycle:
    """experts: E. router: who computes what. every, first_dense: which layers stay dense; capacity_factor: as in ``moe``."""

    def __init__(
        self,
        *,
        experts: Annotated[int, Ge(2)] = 8,
        router: Slot["nn.router"] = "top_k",
        every: Positive[int] = 1,
        first_dense: NonNegative[int] = 0,
        capacity_factor: Positive[float] | None = None,
    ):
        self.experts, self.router = experts, router
        self.placement = {"every": every, "first_dense": first_dense, "capacity_factor": capacity_factor}

    @property
    def preserves(self) -> bool:
        """Whether the router's weights of a position sum to 1, and each position's experts see that position alone."""
        built = self.router.build(width=8, experts=self.experts, layer=0)
        return built.weight_sum == (1.0, 1.0) and built.local and self.placement["capacity_factor"] is None

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        return with_experts(tree, self.experts, self.router.data(), **self.placement)

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        take = Take(snapshot, target)
        for name in target.weights:
            role, source = role_of(name)
            if role == "experts":
                take.repeat(name, source, self.experts, 1 / self.experts)
            elif role == "dense":
                take.copy(name, source)
            elif role == "router":
                take.fresh(name)
        take.rest()
        return take.result()
