"""New blocks add nothing, learn at once, and begin with their neighbours' second moments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _growth import MAKES, PLAIN

from ingot.core.errors import UserError
from ingot.core.resolve import spec


@pytest.mark.parametrize("place", ["spread", "end"])
def test_new_blocks_write_nothing_and_learn_at_once(growth: Any, place: str) -> None:
    grown = growth(PLAIN)
    grown.train(20)
    moments = {key: grown.moments(key) for key in ("exp_avg", "exp_avg_sq", "step")}
    grown.grow(spec("transform", "identity_depth", place=place))
    new = [1, 3] if place == "spread" else [2, 3]
    sources = [0, 0, 1, 1] if place == "spread" else [0, 1, 1, 1]
    weights, gradients = grown.model.state_dict(), grown.gradients()
    for layer, source in enumerate(sources):
        for rest in ("mixer.output.weight", "feedforward.down.weight"):
            name = f"encoder.blocks.{layer}.{rest}"
            assert bool(weights[name].any()) == (layer not in new)
            assert gradients[name].norm() > 0
        name, old = f"encoder.blocks.{layer}.mixer.query.weight", f"encoder.blocks.{source}.mixer.query.weight"
        assert torch.equal(grown.moments("exp_avg_sq")[name], moments["exp_avg_sq"][old]) and torch.equal(
            grown.moments("step")[name], moments["step"][old]
        )
        assert torch.equal(grown.moments("exp_avg")[name], torch.zeros_like(weights[name]) if layer in new else moments["exp_avg"][old])


def test_old_blocks_have_the_gradients_their_moments_say(growth: Any) -> None:
    grown = growth(PLAIN)
    before = grown.remember_gradients()
    grown.grow("identity_depth")
    after = grown.gradients()
    for old, new in ((0, 0), (1, 2)):
        torch.testing.assert_close(
            after[f"encoder.blocks.{new}.feedforward.up.weight"],
            before[f"encoder.blocks.{old}.feedforward.up.weight"],
            rtol=1e-10,
            atol=1e-14,
        )


def test_what_is_normalized_again_is_refused(growth: Any) -> None:
    with pytest.raises(UserError, match="normalizes what passes through"):
        growth(MAKES["post"]).grow("identity_depth")
