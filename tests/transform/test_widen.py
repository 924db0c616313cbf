"""Copies of features, heads and hidden units: exact shares, exact moments, twins that part, clear refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _growth import MAKES, PLAIN

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.transform._width import copies


@pytest.mark.parametrize(("old", "new"), [(4, 8), (4, 7), (5, 17)])
def test_shares_of_a_feature_add_up_to_one(old: int, new: int) -> None:
    index, share = copies(old, new, split=0.7, seed=1)
    assert (
        torch.equal(index[:old], torch.arange(old)) and int(index.bincount(minlength=old).max() - index.bincount(minlength=old).min()) <= 1
    )
    torch.testing.assert_close(torch.zeros(old, dtype=torch.float64).index_add_(0, index, share), torch.ones(old, dtype=torch.float64))
    assert share.min() > 0


@pytest.mark.parametrize("make", list(MAKES))
@pytest.mark.parametrize("knobs", [{"width": 2}, {"width": 1, "heads": 3}, {"width": 3, "heads": 1, "hidden": 1.5}])
def test_moments_are_those_of_the_new_gradients(growth: Any, make: str, knobs: dict[str, Any]) -> None:
    """Adam's moments set to G and G^2 before growing are the new gradient and its square after: every factor is right."""
    grown = growth(MAKES[make])
    grown.remember_gradients()
    grown.grow(spec("transform", "widen", split=0.0, **knobs))
    gradients, first, second = grown.gradients(), grown.moments("exp_avg"), grown.moments("exp_avg_sq")
    assert set(first) == set(gradients)
    for name, gradient in gradients.items():
        if "hidden" in knobs and ".feedforward." in name:
            continue  # units that were copied and units that were not share differently; the next test sees them
        torch.testing.assert_close(first[name], gradient, rtol=1e-8, atol=1e-12, msg=name)
        torch.testing.assert_close(second[name], gradient**2, rtol=1e-8, atol=1e-14, msg=name)


def test_hidden_units_copied_once_or_not_at_all(growth: Any) -> None:
    grown = growth(PLAIN)
    grown.remember_gradients()
    grown.grow(spec("transform", "widen", width=1, hidden=1.25, split=0.5))
    gradients, first = grown.gradients(), grown.moments("exp_avg")
    for name, gradient in gradients.items():
        torch.testing.assert_close(first[name], gradient, rtol=1e-8, atol=1e-12, msg=name)
    assert grown.model.encoder.blocks[0].feedforward.up.weight.shape == (80, 16)


def test_a_wrong_factor_would_be_seen(growth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ingot.transform._width as width

    monkeypatch.setattr(width.Copies, "writes", lambda self, axis: width.Map(self.index[axis]) if axis in self.index else None)
    grown = growth(PLAIN)
    grown.remember_gradients()
    grown.grow(spec("transform", "widen", split=0.0))
    gradient, name = grown.gradients(), "encoder.blocks.0.mixer.query.weight"
    assert (grown.moments("exp_avg")[name] - gradient[name]).norm() > 0.5 * gradient[name].norm()


@pytest.mark.parametrize(("split", "part_ways"), [(0.0, False), (0.2, True)])
def test_unequal_shares_let_twins_part(growth: Any, split: float, part_ways: bool) -> None:
    grown = growth(PLAIN)
    grown.train(5)
    grown.grow(spec("transform", "widen", width=1, hidden=2, split=split))
    grown.train(10)
    weight = grown.model.encoder.blocks[0].feedforward.up.weight.detach()
    assert (float((weight[:64] - weight[64:]).norm()) > 1e-4 * float(weight.norm())) == part_ways


def test_the_head_stays_tied_and_the_last_norm_takes_the_shares(growth: Any) -> None:
    grown = growth(PLAIN)
    before, embedding = grown.model.encoder.norm.weight.detach().clone(), grown.model.embedding.weight.detach().clone()
    grown.grow(spec("transform", "widen", split=0.0))
    assert grown.model.objective.head is None
    torch.testing.assert_close(grown.model.encoder.norm.weight.detach(), before.repeat(2) / 2)
    torch.testing.assert_close(grown.model.embedding.weight.detach(), embedding.repeat(1, 2))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"norm": {"name": "rms", "gain": False}}, "a norm with a gain"),
        ({"final_norm": False}, "a norm with a gain"),
        ({"linear": "ternary"}, "does not stay the same under copied features"),
    ],
)
def test_refusals(growth: Any, edit: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        growth({**PLAIN, "encoder": {**PLAIN["encoder"], **edit}}).grow("widen")


def test_nothing_to_grow_is_refused(growth: Any) -> None:
    with pytest.raises(UserError, match="nothing grows"):
        growth(PLAIN).grow(spec("transform", "widen", width=1))


def test_state_that_cannot_be_copied_starts_afresh_and_is_said(growth: Any) -> None:
    grown = growth(PLAIN)
    grown.train(3)
    grown.state.optimizer.state_layout = lambda axes, shape: {"step": "scalar", "exp_avg": "elementwise", "exp_avg_sq": "quantized"}
    (line,) = grown.grow("widen")
    assert not grown.moments("exp_avg") and "state 'exp_avg_sq' is quantized" in line["notes"][0]
    grown.step()
