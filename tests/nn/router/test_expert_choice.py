"""Expert choice against the paper's equations; even loads; refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.nn.context import Cache, Context

WIDTH, EXPERTS, LENGTH = 6, 4, 12


def build(**knobs: object) -> torch.nn.Module:
    router = spec("nn.router", "expert_choice", **knobs).build(width=WIDTH, experts=EXPERTS)
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(1))
    return router.double()


def inputs() -> Tensor:
    return torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def context(segments: Tensor | None = None, causal: bool = False) -> Context:
    return Context(torch.arange(LENGTH).expand(2, -1), segments, causal, torch.arange(2), torch.tensor(3))


def test_the_equations() -> None:
    """S = softmax(X W), G, I = top C of S^T, one-hot P: the output is sum_e P_e^T (G_e * E_e(P_e X)), here with E_e(x) = (e + 1) x."""
    router, x = build(capacity_factor=2.0), inputs()
    routes = router(x, context())
    rows = routes.dispatch(x)
    expert = torch.searchsorted(routes.ends_E, torch.arange(len(rows), dtype=torch.int32), right=True)
    found = routes.combine(rows * (expert[:, None] + 1))
    for row in range(2):
        scores = (x[row] @ router.weight.T).softmax(-1)
        gates, index = scores.T.topk(2 * LENGTH // EXPERTS, dim=1)
        picked = torch.nn.functional.one_hot(index, LENGTH).double()
        worked = torch.einsum("ect,td->ecd", picked, x[row]) * (torch.arange(EXPERTS)[:, None, None] + 1)
        torch.testing.assert_close(found[row], torch.einsum("ect,ec,ecd->td", picked, gates, worked), rtol=1e-12, atol=1e-12)


def test_loads_are_even_and_padding_takes_no_room() -> None:
    router, x = build(capacity_factor=1.0), inputs()
    segments = torch.tensor([[1] * LENGTH, [1] * 8 + [0] * 4])
    routes = router(x, context(segments))
    assert router.side["count/load"].tolist() == [3 + 2] * EXPERTS and int(router.side["count/routed"]) == 20
    reached = routes.combine(routes.dispatch(torch.ones_like(x)))[..., 0] > 0
    assert int(router.side["count/dropped"]) == 20 - int(reached.sum()) > 0 and not reached[1, 8:].any()


def test_a_causal_stack_is_refused_and_a_leak_is_by_choice() -> None:
    with pytest.raises(UserError, match="later positions"):
        build()(inputs(), context(causal=True))
    router = build(leak_future=True)
    router(inputs(), context(causal=True))
    where = context(causal=True)
    where.cache = Cache(LENGTH)
    with pytest.raises(UserError, match="whole rows"):
        router(inputs(), where)


def test_recipes_are_refused_before_they_start(tiny_recipe) -> None:  # type: ignore[no-untyped-def]
    from ingot.build.check import check

    feedforward = {"name": "moe", "experts": 4, "router": "expert_choice"}
    _, problems = check(tiny_recipe({"model": {"encoder": {"feedforward": feedforward}}}))
    messages = [problem.message for problem in problems]
    assert len(messages) == 2 and "causal_lm forbids" in messages[0] and "packed by 'stream'" in messages[1]
    allowed = {"name": "moe", "experts": 4, "router": {"name": "expert_choice", "leak_future": True}}
    assert not check(tiny_recipe({"model": {"encoder": {"feedforward": allowed}}, "data": {"pack": {"name": "stream", "attend": "row"}}}))[
        1
    ]
