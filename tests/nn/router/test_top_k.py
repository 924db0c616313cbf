"""Token choice: weights, side losses against hand-worked numbers and transformers, jitter, capacity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ingot.core.parts import load
from ingot.core.resolve import spec
from ingot.nn.context import Context
from ingot.nn.router._router import within_capacity

WIDTH, EXPERTS = 4, 3


def build(experts: int = EXPERTS, capacity: float | None = None, **knobs: object) -> torch.nn.Module:
    router = spec("nn.router", "top_k", **knobs).build(width=WIDTH, experts=experts, capacity=capacity)
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(1))
    return router.double()


def context(segments: Tensor | None = None, rows: list[int] | None = None, length: int = 6) -> Context:
    numbers = torch.tensor(rows or [0, 1])
    return Context(torch.arange(length).expand(len(numbers), -1), segments, True, numbers, torch.tensor(3))


def inputs(rows: int = 2, length: int = 6) -> Tensor:
    return torch.randn(rows, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def per_position(routes: object, like: Tensor) -> Tensor:
    """(B, T) sum of weights: each expert gives back what it got."""
    ones = torch.ones_like(like)
    return routes.combine(routes.dispatch(ones))[..., 0]  # type: ignore[attr-defined]


def test_normalizing_is_a_softmax_over_the_chosen_logits() -> None:
    router, x = build(top_k=2), inputs()
    routes = router(x, context())
    wanted = (x @ router.weight.T).topk(2, dim=-1).values.softmax(dim=-1)
    found = routes.weights_M[routes.inverse_M].view(2, 6, 2)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_one_expert_is_weighed_by_its_probability() -> None:
    router, x = build(top_k=1), inputs()
    torch.testing.assert_close(per_position(router(x, context()), x), (x @ router.weight.T).softmax(-1).amax(-1), rtol=1e-12, atol=1e-12)


def test_balance_by_hand() -> None:
    """Four positions, two experts: three choose the first. f = (3/4, 1/4); P from the probabilities; 2 (f1 P1 + f2 P2)."""
    router = build(experts=2, top_k=1)
    with torch.no_grad():
        router.weight.zero_()
        router.weight[0, 0] = 1.0
    x = torch.zeros(1, 4, WIDTH, dtype=torch.float64)
    x[0, :, 0] = torch.tensor([math.log(3), math.log(3), 0.1, -math.log(4)], dtype=torch.float64)
    p = [3 / 4, 3 / 4, math.exp(0.1) / (1 + math.exp(0.1)), 1 / 5]
    router(x, context(rows=[0], length=4))
    mean = sum(p) / 4
    assert float(router.side["balance"].detach()) == pytest.approx(2 * (0.75 * mean + 0.25 * (1 - mean)), rel=1e-12)
    assert router.side["count/load"].tolist() == [3, 1] and int(router.side["count/routed"]) == 4
    z = [math.log(math.exp(float(value)) + 1) ** 2 for value in x[0, :, 0]]
    assert float(router.side["router_z"].detach()) == pytest.approx(sum(z) / 4, rel=1e-12)


def test_an_even_load_has_balance_one_and_a_collapsed_one_more() -> None:
    router = build(top_k=1)
    with torch.no_grad():
        router.weight.copy_(torch.eye(3, WIDTH) * 20)
    even = torch.eye(3, WIDTH, dtype=torch.float64).repeat(2, 1)[None]
    router(even, context(rows=[0]))
    assert float(router.side["balance"].detach()) == pytest.approx(1, abs=1e-6)
    router(even[:, :1].expand(-1, 6, -1), context(rows=[0]))
    assert float(router.side["balance"].detach()) == pytest.approx(3, abs=1e-6)


def test_balance_is_transformers_own_by_row() -> None:
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    router, x = build(top_k=2), inputs()
    router(x, context(torch.tensor([[1] * 6, [1] * 4 + [0] * 2])))
    for row, length in ((0, 6), (1, 4)):
        theirs = mixtral.load_balancing_loss_func((x[row, :length] @ router.weight.T,), EXPERTS, 2)
        assert float(router.side["balance"][row].detach()) == pytest.approx(
            float(theirs.detach()) / 2, rel=1e-6
        )  # theirs sums over the two choices


def test_jitter_is_multiplicative_and_belongs_to_the_row() -> None:
    router, x = build(jitter=0.3, top_k=1), inputs()
    moved = router._jittered(x, context()) / x
    assert 0.7 <= float(moved.min()) < 0.75 and 1.25 < float(moved.max()) <= 1.3
    torch.testing.assert_close(router._jittered(x[1:], context(rows=[1])) / x[1:], moved[1:], rtol=0, atol=0)
    assert torch.equal(router.eval()._jittered(x, context()), x)


def test_capacity_is_counted_by_document_and_earlier_positions_go_first() -> None:
    """Two documents of four, everyone wants expert 0 of two: ceil(1 * 1 * 4 / 2) = 2 of each document get in."""
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2, 0]])
    wanted = torch.zeros(1, 9, 1, dtype=torch.int64)
    kept = within_capacity(wanted, segments > 0, segments, 2, 1.0)[0, :, 0]
    assert kept[:8].tolist() == [True, True, False, False] * 2
    assert within_capacity(wanted, segments > 0, segments, 2, 1.1)[0, :8, 0].tolist() == [True, True, True, False] * 2
    assert within_capacity(wanted, segments > 0, None, 2, 1.0)[0, :8, 0].tolist() == [True] * 4 + [False] * 4


def test_what_is_over_the_capacity_gets_nothing_while_training_alone() -> None:
    router, x = build(top_k=1, capacity=0.5), inputs(length=12)
    x = x[:, :1].expand(-1, 12, -1)  # all want the same expert: ceil(0.5 * 12 / 3) = 2 get in
    weights = per_position(router(x, context(length=12)), x)
    assert ((weights > 0).sum(dim=1) == 2).all() and (weights[:, :2] > 0).all()
    assert int(router.side["count/dropped"]) == 20 and int(router.side["count/routed"]) == 24
    assert router.counted({name[6:]: value for name, value in router.side.items() if name.startswith("count/")})[
        "drop_rate"
    ] == pytest.approx(20 / 24)
    assert (per_position(router.eval()(x, context(length=12)), x) > 0).all()


def test_the_ledger_hears_of_entropy_and_the_largest_load() -> None:
    found = build().counted({"load": torch.tensor([6, 3, 3]), "dropped": torch.tensor(3), "routed": torch.tensor(12)})
    assert found["max_load"] == pytest.approx(1.5) and found["drop_rate"] == pytest.approx(0.25)
    assert found["load_entropy"] == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(3))


def test_a_constant_weight_is_refused() -> None:
    check = load("nn.router", "top_k").check
    assert "never learn" in next(iter(check(spec("nn.router", "top_k", top_k=1, normalize=True).knobs, {})))
    assert not list(check(spec("nn.router", "top_k", top_k=1).knobs, {}))
