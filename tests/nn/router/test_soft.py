"""Soft mixture against the paper's algorithm written with einsum; padding; refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.nn.context import Context

WIDTH, EXPERTS, SLOTS, LENGTH = 6, 3, 2, 7


def build() -> torch.nn.Module:
    router = spec("nn.router", "soft", slots=SLOTS).build(width=WIDTH, experts=EXPERTS)
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.constant_(router.scale, 3.0)
    return router.double()


def inputs() -> Tensor:
    return torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def context(segments: Tensor | None = None, causal: bool = False) -> Context:
    return Context(torch.arange(LENGTH).expand(2, -1), segments, causal, torch.arange(2), torch.tensor(3))


def output(router: torch.nn.Module, x: Tensor, where: Context) -> Tensor:
    """Expert e multiplies by e + 1."""
    routes = router(x, where)
    rows = routes.dispatch(x)
    expert = torch.searchsorted(routes.ends_E, torch.arange(len(rows), dtype=torch.int32), right=True)
    return routes.combine(rows * (expert[:, None] + 1))


def test_the_algorithm() -> None:
    router, x = build(), inputs()
    phi = (3.0 * router.weight / router.weight.norm(dim=1, keepdim=True)).view(EXPERTS, SLOTS, WIDTH)
    logits = torch.einsum("bmd,npd->bmnp", x / x.norm(dim=-1, keepdim=True), phi)
    dispatch, combine = logits.softmax(dim=1), logits.flatten(2).softmax(dim=2).view(logits.shape)
    slots = torch.einsum("bmd,bmnp->bnpd", x, dispatch) * (torch.arange(EXPERTS)[:, None, None] + 1)
    torch.testing.assert_close(output(router, x, context()), torch.einsum("bnpd,bmnp->bmd", slots, combine), rtol=1e-12, atol=1e-12)


def test_padding_is_not_mixed_in() -> None:
    router, x = build(), inputs()
    segments = torch.tensor([[1] * 5 + [0] * 2, [0] * 7])
    other = x.clone()
    other[:, 5:] = 100.0
    one, two = output(router, x, context(segments)), output(router, other, context(segments))
    assert torch.equal(one[0, :5], two[0, :5]) and not one[0, 5:].any() and not one[1].any() and one.isfinite().all()
    short = Context(torch.arange(5)[None], None, False, torch.arange(1), torch.tensor(3))
    torch.testing.assert_close(one[:1, :5], output(router, x[:1, :5], short), rtol=1e-12, atol=1e-12)


def test_causal_is_refused(tiny_recipe) -> None:  # type: ignore[no-untyped-def]
    from ingot.build.check import check

    with pytest.raises(UserError, match="causal stack forbids"):
        build()(inputs(), context(causal=True))
    feedforward = {"name": "moe", "experts": 4, "router": "soft", "capacity_factor": 1.0}
    messages = [problem.message for problem in check(tiny_recipe({"model": {"encoder": {"feedforward": feedforward}}}))[1]]
    assert any("causal_lm forbids" in message for message in messages) and any(
        "leave capacity_factor out" in message for message in messages
    )
