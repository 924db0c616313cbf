"""Every expert starts as the dense feed-forward; moments are shared among them; what is not preserved is not claimed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _growth import MAKES, PLAIN

from ingot.core.errors import UserError
from ingot.core.resolve import spec


def test_experts_are_the_dense_layer_and_the_router_is_new(growth: Any) -> None:
    grown = growth(MAKES["grouped heads, biases, untied"])
    grown.train(4)
    old, moments = (
        {name: value.clone() for name, value in grown.model.state_dict().items()},
        {key: grown.moments(key) for key in ("exp_avg", "exp_avg_sq")},
    )
    grown.grow(spec("transform", "upcycle", experts=4, first_dense=1))
    new = grown.model.state_dict()
    for rest in ("up.weight", "gate.weight", "down.weight", "up.bias"):
        dense = f"encoder.blocks.0.feedforward.{rest}"
        assert torch.equal(new[f"encoder.blocks.0.feedforward.dense.{rest}"], old[dense])
        source, name = f"encoder.blocks.1.feedforward.{rest}", f"encoder.blocks.1.feedforward.experts.{rest}"
        for expert in range(4):
            assert torch.equal(new[name][expert], old[source])
            torch.testing.assert_close(grown.moments("exp_avg")[name][expert], moments["exp_avg"][source] / 4)
            torch.testing.assert_close(grown.moments("exp_avg_sq")[name][expert], moments["exp_avg_sq"][source] / 16)
    assert "encoder.blocks.1.feedforward.router.weight" not in grown.moments("exp_avg")


def test_gradients_of_the_experts_add_up_to_the_dense_one(growth: Any) -> None:
    """What the shared moments rest on."""
    grown = growth(PLAIN)
    before = grown.gradients()
    grown.grow(spec("transform", "upcycle", experts=4))
    after = grown.gradients()
    for layer in (0, 1):
        for rest in ("up.weight", "down.weight"):
            torch.testing.assert_close(
                after[f"encoder.blocks.{layer}.feedforward.experts.{rest}"].sum(dim=0),
                before[f"encoder.blocks.{layer}.feedforward.{rest}"],
                rtol=1e-9,
                atol=1e-12,
            )


@pytest.mark.parametrize(
    ("router", "preserves"), [({"name": "top_k", "top_k": 2}, True), ({"name": "top_k", "top_k": 1}, False), ({"name": "soft"}, False)]
)
def test_it_claims_what_the_router_allows(router: dict[str, Any], preserves: bool) -> None:
    assert spec("transform", "upcycle", experts=4, router=router).build().preserves is preserves


def test_a_mixture_is_not_upcycled_again(growth: Any) -> None:
    grown = growth(PLAIN)
    grown.grow("upcycle")
    with pytest.raises(UserError, match="a mixture of experts already"):
        grown.grow("upcycle")
