"""Balance by biases: the choice sees them, the weights do not; they follow the loads of a step, once, downward where the load is high."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ingot.core.parts import load
from ingot.core.resolve import spec
from ingot.nn.context import Context

WIDTH, EXPERTS = 8, 4


def build(**knobs: object) -> torch.nn.Module:
    router = spec("nn.router", "bias_balanced", **knobs).build(width=WIDTH, experts=EXPERTS)
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(1))
    return router.double()


def context(rows: int = 4, length: int = 32) -> Context:
    return Context(torch.arange(length).expand(rows, -1), None, True, torch.arange(rows), torch.tensor(3))


def inputs() -> Tensor:
    x = torch.randn(4, 32, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return x + torch.linspace(-1, 1, WIDTH, dtype=torch.float64)  # a common part: some experts are liked by all


def totals(router: torch.nn.Module) -> dict[str, Tensor]:
    return {name[6:]: value for name, value in router.side.items() if name.startswith("count/")}


def test_the_bias_moves_the_choice_and_not_the_weights() -> None:
    router, x = build(top_k=2, normalize=False), inputs()
    plain = router(x, context())
    router.bias[3] = 10.0
    biased = router(x, context())
    assert int(router.side["count/load"][3]) == 4 * 32
    scores = (x @ router.weight.T).sigmoid()
    chosen = torch.stack([scores[..., 3], scores[..., :3].amax(-1)], -1)
    torch.testing.assert_close(biased.weights_M[biased.inverse_M].view(4, 32, 2), chosen, rtol=1e-12, atol=1e-12)
    assert not torch.equal(plain.ends_E, biased.ends_E)


def test_one_step_moves_each_bias_by_the_rate_toward_an_even_load() -> None:
    router = build(rate=0.25)
    found = router.counted({"load": torch.tensor([40, 10, 20, 10]), "dropped": torch.tensor(0), "routed": torch.tensor(80)})
    assert router.bias.tolist() == [-0.25, 0.25, 0.0, 0.25]
    assert found["max_load"] == pytest.approx(2.0) and found["largest_bias"] == 0.25


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
def test_loads_become_even(score: str) -> None:
    """Fails when the sign is turned: the loads then run away."""
    router, x = build(top_k=2, rate=0.003, score=score), inputs()
    router(x, context())
    before = router.counted(totals(router))["max_load"]
    for _ in range(300):
        router(x, context())
        after = router.counted(totals(router))["max_load"]
    assert before > 1.3 and after < 1.1


def test_biases_have_no_gradient_and_are_kept() -> None:
    router = build()
    assert "bias" in router.state_dict() and "bias" not in dict(router.named_parameters())


def test_weights_sum_to_the_scale() -> None:
    router, x = build(top_k=3, scale=2.5), inputs()
    routes = router(x, context())
    torch.testing.assert_close(routes.combine(routes.dispatch(torch.ones_like(x))), torch.full_like(x, 2.5))


def test_recomputed_activations_count_a_load_once() -> None:
    from torch.utils.checkpoint import checkpoint

    from ingot.train.step import clear_side, collect_side

    router, x = build(), inputs().requires_grad_()
    holder = torch.nn.ModuleDict({"router": router})

    def forward(value: Tensor) -> Tensor:
        routes = router(value, context())
        return routes.combine(routes.dispatch(value)).square()

    clear_side(holder)
    loss = checkpoint(forward, x, use_reentrant=False).sum()
    side = collect_side(holder)["router"]
    loss.backward()
    assert int(side["count/load"].sum()) == 4 * 32 * 2 == int(router.side["count/load"].sum())


def test_one_expert_is_weighed_by_its_score_and_learned_from() -> None:
    router = build(top_k=1)
    router(inputs(), context()).weights_M.sum().backward()
    assert router.weight.grad.norm() > 0 and router.weight_sum == (0.0, 1.0)
    check = load("nn.router", "bias_balanced").check
    assert "never learn" in next(iter(check(spec("nn.router", "bias_balanced", top_k=1, normalize=True).knobs, {})))
    assert not list(check(spec("nn.router", "bias_balanced", top_k=1).knobs, {}))
