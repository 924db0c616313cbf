"""What every router keeps: declared weights, capacity, padding, independence of grouping and order; and that it trains under every norm placement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.parts import parts_in, signature
from ingot.core.resolve import spec
from ingot.nn.context import Context
from ingot.train.step import forward_backward

SLOTS = ["nn.router"]
WIDTH, LENGTH, ROWS, EXPERTS = 16, 12, 4, 4


def context(rows: list[int] | None = None, segments: Tensor | None = None, ids: Tensor | None = None, length: int = LENGTH) -> Context:
    numbers = torch.tensor(rows or list(range(ROWS)))
    ids = (numbers[:, None] * 7 + torch.arange(length) * 5) % 19 if ids is None else ids
    return Context(torch.arange(length).expand(len(numbers), -1), segments, False, numbers, torch.tensor(3), ids_BT=ids)


def values(length: int = LENGTH, seed: int = 1) -> Tensor:
    return torch.randn(ROWS, length, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def router(case: Any, randomized: Any) -> Any:
    return randomized(case.build(width=WIDTH, experts=EXPERTS, layer=0)).double()


def output(router: Any, x: Tensor, where: Context, values: Tensor | None = None) -> Tensor:
    """A position's result where expert e multiplies by e + 1."""
    routes = router(x, where)
    rows = routes.dispatch(x if values is None else values)
    expert = torch.searchsorted(routes.ends_E, torch.arange(len(rows), dtype=torch.int32), right=True)
    return routes.combine(rows * (expert[:, None] + 1.0))


def sums(router: Any, x: Tensor, where: Context) -> Tensor:
    """(B, T) sum of each position's weights."""
    routes = router(x, where)
    return routes.combine(routes.dispatch(torch.ones_like(x)))[..., 0]


def test_weights_sum_as_declared(case: Any, router: Any) -> None:
    low, high = router.weight_sum
    found = sums(router.eval(), values(), context())
    assert (found >= low - 1e-12).all() and (found <= high + 1e-12).all() and found.any()


def test_padding_is_neither_routed_nor_counted(case: Any, router: Any) -> None:
    segments = torch.tensor([[1] * 12, [1] * 8 + [0] * 4, [1] * 3 + [0] * 9, [0] * 12])
    x, where = values(), context([0, 1, 2, -1], segments)
    other = torch.where((segments > 0)[..., None], x, 7.0 - x)
    one = output(router, x, where)
    side = {name: value.detach().clone() for name, value in (router.side or {}).items()}
    two = output(router, other, where)
    assert not one[segments == 0].any() and one.isfinite().all()
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)
    for name, value in side.items():
        torch.testing.assert_close(value, router.side[name].detach(), rtol=1e-12, atol=1e-13)
    if "count/routed" in side:
        choices = getattr(router, "top_k", 1)
        assert int(side["count/routed"]) == int((segments > 0).sum()) * choices
    short = output(router, x[1:2, :8], context([1], length=8))
    if not getattr(router, "jitter", 0):  # jitter draws by place in the row, which a shorter row has less of
        torch.testing.assert_close(one[1:2, :8], short, rtol=1e-12, atol=1e-13)


def test_grouping_of_rows_changes_nothing(case: Any, router: Any) -> None:
    segments = torch.tensor([[1] * 12, [1] * 5 + [2] * 7, [1] * 9 + [0] * 3, [1] * 12])
    x, where = values(), context(segments=segments)
    whole = output(router, x, where)
    side = dict(router.side or {})
    parts: dict[str, list[Tensor]] = {}
    for rows in ([0], [1, 2], [3]):
        found = output(router, x[rows], context(rows, segments[rows]))
        torch.testing.assert_close(found, whole[rows], rtol=1e-12, atol=1e-13)
        for name, value in (router.side or {}).items():
            parts.setdefault(name, []).append(value)
    for name, value in side.items():
        again = torch.stack(parts[name]).sum(dim=0) if name.startswith("count/") else torch.cat(parts[name])
        torch.testing.assert_close(again, value, rtol=1e-12, atol=1e-13)


def test_order_of_positions_matters_only_where_it_must(case: Any, router: Any) -> None:
    """Evaluation: neither jitter nor capacity."""
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    x, where = values(), context()
    moved = output(router.eval(), x[:, order], context(ids=where.ids_BT[:, order]))
    torch.testing.assert_close(moved, output(router, x, where)[:, order], rtol=1e-12, atol=1e-13)


def test_local_routers_look_at_a_position_alone(case: Any, router: Any) -> None:
    x = values()
    other = torch.cat([x[:, :6], values(seed=2)[:, 6:]], dim=1)
    same = bool((output(router, x, context()) - output(router, other, context())).abs()[:, :6].amax() < 1e-12)
    assert same == router.local, "later positions"


def test_capacity_holds(case: Any, randomized: Any) -> None:
    if "capacity" not in signature(case.target).wiring:
        pytest.skip("sets each expert's load itself")
    router = randomized(case.build(width=WIDTH, experts=EXPERTS, layer=0, capacity=1.0)).double()
    segments = torch.tensor([[1] * 7 + [2] * 5])
    choices = getattr(router, "top_k", 1)
    routes = router(values()[:1], context([0], segments))
    loads = torch.diff(routes.ends_E.long(), prepend=torch.zeros(1, dtype=torch.int64))
    room = sum(-(-choices * length // EXPERTS) for length in (7, 5))
    assert (loads <= room).all()
    assert int(loads.sum()) == int(router.side["count/routed"]) - int(router.side["count/dropped"])


def test_scores_learn(case: Any, router: Any) -> None:
    x = values().requires_grad_()
    found = output(router, x, context())
    (found * torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view(found.shape)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    for name, parameter in router.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_declared_losses_are_left_while_training_alone(case: Any, router: Any) -> None:
    output(router, values(), context())
    left = {name: value for name, value in (router.side or {}).items() if not name.startswith("count/")}
    assert set(left) == set(router.side_losses)
    assert all(value.shape == (ROWS,) and value.requires_grad for value in left.values())
    router.side = None
    output(router.eval(), values(), context())
    assert router.side is None


def model_with(case: Any, placement: str, randomized: Any, capacity: float | None = None) -> Any:
    from ingot.model.graph import Model

    wiring = {"width": WIDTH, "vocabulary": 24, "sequence": LENGTH, "specials": {"mask": 2}, "linear": spec("nn.linear", "dense")}
    feedforward = {
        "name": "moe",
        "experts": EXPERTS,
        "router": case.spec().data(),
        "expert": {"name": "swiglu", "hidden": 16},
        "capacity_factor": capacity,
    }
    encoder = spec(
        "model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 2}, feedforward=feedforward, block=placement
    ).build(**wiring)
    objective = (
        spec("objective", "causal_lm") if case.target.local or case.given.get("leak_future") else spec("objective", "masked_lm", rate=0.4)
    )
    return randomized(Model(embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=objective.build(**wiring)))


@pytest.mark.parametrize("placement", list(parts_in("nn.block")))
def test_trains_under_every_norm_placement(case: Any, placement: str, randomized: Any, batch_of: Any) -> None:
    model = model_with(case, placement, randomized)
    layout = spec("parallel.layout", "single").build()
    sides = dict.fromkeys(case.target.side_losses, 0.01)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for step in range(40):
        window = [model.objective.prepare(batch_of(range(8 * step, 8 * step + 8)))]
        optimizer.zero_grad()
        losses.append(float(sum(forward_backward(model, window, layout, sides).shares.values())))
        optimizer.step()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5]), losses


def test_accumulation_gives_the_same_gradient(case: Any, randomized: Any, batch_of: Any) -> None:
    """Side losses and capacity included, to 1e-12 in fp64."""
    model = model_with(case, "pre", randomized, capacity=1.25 if "capacity" in signature(case.target).wiring else None).double()
    model.compute_dtype = torch.float64
    layout = spec("parallel.layout", "single").build()
    sides = dict.fromkeys(case.target.side_losses, 0.5)

    def gradients(groups: list[list[int]]) -> tuple[dict[str, Tensor], Any]:
        model.zero_grad()
        found = forward_backward(model, [model.objective.prepare(batch_of(rows)) for rows in groups], layout, sides)
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, found

    wanted, whole = gradients([[0, 1, 2, 3, 4]])
    found, parts = gradients([[0, 1], [2, 3], [4, -1]])
    for name, value in wanted.items():
        assert float((found[name] - value).norm() / value.norm()) < 1e-12, name
    for name, value in whole.side.items():
        torch.testing.assert_close(parts.side[name], value, rtol=1e-12, atol=1e-12)
    for path, counts in whole.counts.items():
        assert all(torch.equal(parts.counts[path][name], value) for name, value in counts.items())
