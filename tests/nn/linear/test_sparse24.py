"""S-STE: two of four, continuous, the fixed scale; and the unbiased 2:4 estimate of a gradient."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.errors import UserError
from ingot.nn.linear.sparse24 import soft_threshold, unbiased24


def test_two_of_every_four_are_zero(make: Any, drawn: Any) -> None:
    whole = drawn(make("sparse24", inputs=48, outputs=32)).effective()
    assert ((whole.view(-1, 4) != 0).sum(1) == 2).all()


def test_keeps_the_two_largest_less_the_third() -> None:
    found = soft_threshold(torch.tensor([[3.0, -5.0, 1.0, 2.0, 0.5, -0.5, 0.5, -0.5], [0.0, 0.0, -4.0, 0.0, -1.0, 2.0, -3.0, 4.0]]))
    assert found.tolist() == [[1.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -4.0, 0.0, 0.0, 0.0, -1.0, 2.0]]
    weight = torch.randn(40, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = weight.view(-1, 4)
    threshold = groups.abs().sort(1).values[:, 1:2]
    wanted = torch.where(groups.abs() > threshold, groups.sign() * (groups.abs() - threshold), 0)
    torch.testing.assert_close(soft_threshold(weight), wanted.view(weight.shape))


def test_is_continuous_where_hard_pruning_jumps() -> None:
    """As a weight overtakes another, the pruned matrix moves no more than twice the step."""
    base = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    path = [soft_threshold(base + torch.tensor([0, 0, 0, t], dtype=torch.float64)) for t in torch.linspace(0, 4, 4001).tolist()]
    jumps = torch.stack([(b - a).abs().max() for a, b in pairwise(path)])
    assert float(jumps.max()) < 1.1e-3 and not torch.equal(path[0] != 0, path[-1] != 0)


def test_the_scale_is_the_best_at_the_start_and_stays(make: Any, drawn: Any, x: Tensor) -> None:
    layer = drawn(make("sparse24"))
    pruned = soft_threshold(layer.weight)
    errors = [float((layer.weight.detach() - layer.scale * factor * pruned).norm()) for factor in (0.99, 1.0, 1.01)]
    assert errors[1] < errors[0] and errors[1] < errors[2]
    before = layer.scale.clone()
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight))
    layer(x)
    assert torch.equal(layer.scale, before) and "scale" in layer.state_dict()


def test_gradients_pass_straight_through(make: Any, drawn: Any, x: Tensor, weight_gradient: Any, score: Any) -> None:
    layer = drawn(make("sparse24"))
    torch.testing.assert_close(layer(x), x @ layer.effective().t() + layer.bias)
    dense = weight_gradient(layer, x)
    score(layer(x)).backward()
    torch.testing.assert_close(layer.weight.grad, dense)  # without the factor beta, and for pruned weights too
    assert (layer.weight.grad[layer.effective() == 0] != 0).all()


def test_starts_at_the_size_of_a_dense_matrix(make: Any, drawn: Any) -> None:
    layer = drawn(make("sparse24", inputs=256, outputs=192), 0.04)
    assert float(layer.effective().detach().square().mean().sqrt()) == pytest.approx(0.04, rel=1e-4)


def test_other_widths_are_refused(make: Any) -> None:
    with pytest.raises(UserError, match="multiple of 4"):
        make("sparse24", inputs=10)


GROUPS = [
    [1.0, -2.0, 3.0, 4.0],
    [0.1, 0.2, -0.3, 5.0],
    [1.0, 1.0, 1.0, 1.0],
    [0.0, 2.0, 0.0, -1.0],
    [0.0, 0.0, 0.0, 7.0],
    [2.0, -2.0, 4.0, 0.0],
]


def best_variance(values: Tensor) -> float:
    """The least that an unbiased estimate keeping two of four can have: sum a^2 (1/p - 1) over the best inclusion probabilities."""
    size, best = values.abs(), float("inf")
    for certain in (set(), *({i} for i in range(4)), *map(set, combinations(range(4), 2))):
        rest = [i for i in range(4) if i not in certain and size[i] > 0]
        total = float(sum(size[i] for i in rest))
        left = 2 - len(certain)
        shares = {i: left * float(size[i]) / total for i in rest} if rest and left else {}
        if (rest and not left) or any(share > 1 + 1e-12 for share in shares.values()):
            continue
        best = min(best, sum(float(size[i]) ** 2 * (1 / shares[i] - 1) for i in rest))
    return best


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_the_estimate_is_unbiased_with_the_least_variance(group: list[float]) -> None:
    count = 40_000
    values = torch.tensor(group, dtype=torch.float64)
    drawn = unbiased24(values.repeat(count // 8)[:, None].expand(-1, 8).contiguous()).view(-1, 4, 8).transpose(1, 2).reshape(-1, 4)
    assert len(drawn) == count and ((drawn != 0).sum(1) <= 2).all()
    variance = float((drawn - values).square().sum(1).mean())
    floor = best_variance(values)
    torch.testing.assert_close(drawn.mean(0), values, rtol=0, atol=4 * (floor / count) ** 0.5 + 1e-9)
    assert variance == pytest.approx(floor, rel=0.05, abs=1e-9)


def test_the_estimate_keeps_the_gradient_of_the_input_exact(make: Any, drawn: Any, x: Tensor, score: Any) -> None:
    plain, sparse = (drawn(make("sparse24", unbiased=unbiased)) for unbiased in (False, True))
    score(plain(x)).backward()
    wanted, x.grad = x.grad, None
    score(sparse(x)).backward()
    assert torch.equal(plain(x), sparse(x))
    torch.testing.assert_close(x.grad, wanted)
    assert not torch.equal(plain.weight.grad, sparse.weight.grad)


def test_the_draw_is_a_function_of_the_gradient(make: Any) -> None:
    values = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))  # not a multiple of four positions
    state = torch.get_rng_state()
    assert torch.equal(unbiased24(values), unbiased24(values)) and unbiased24(values).shape == values.shape
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(unbiased24(values) != 0, unbiased24(-values) != 0)


def test_a_row_is_drawn_alike_in_any_batch() -> None:
    rows = torch.randn(5, 10, 6, generator=torch.Generator().manual_seed(0))
    whole = unbiased24(rows)
    assert torch.equal(unbiased24(rows[2:4]), whole[2:4]) and torch.equal(unbiased24(rows[1]), whole[1])
    nudged = unbiased24(rows * (1 + 1e-7))
    torch.testing.assert_close(nudged, whole)  # what rounding may change draws nothing else


def test_vectors_of_rows_are_not_mixed(make: Any, drawn: Any) -> None:
    plain, sparse = (drawn(make("sparse24", unbiased=unbiased)) for unbiased in (False, True))
    x = torch.randn(12, plain.inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for parts in ([x], [x[:5], x[5:]]):
        for layer in (plain, sparse):
            layer.zero_grad()
            for part in parts:
                (layer(part).square() / 2).sum().backward()
        torch.testing.assert_close(sparse.weight.grad, plain.weight.grad)
