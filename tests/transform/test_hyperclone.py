"""Clones: the paper's block forms, noise that cancels, moments that fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _growth import MAKES, PLAIN

from ingot.core.resolve import spec


def test_symmetric_and_diagonal_blocks(growth: Any) -> None:
    found = {}
    for diagonal in (False, True):
        grown = growth(PLAIN)
        w = grown.model.encoder.blocks[0].feedforward.up.weight.detach().clone()
        grown.grow(spec("transform", "hyperclone", diagonal=diagonal))
        found[diagonal] = grown.model.encoder.blocks[0].feedforward.up.weight.detach()
    zero = torch.zeros_like(w)
    torch.testing.assert_close(found[False], torch.cat([torch.cat([w, w], 1), torch.cat([w, w], 1)]) / 2)
    torch.testing.assert_close(found[True], torch.cat([torch.cat([w, zero], 1), torch.cat([zero, w], 1)]))


@pytest.mark.parametrize("times", [2, 3])
def test_noise_has_its_size_and_cancels(growth: Any, times: int) -> None:
    weights = []
    for noise in (0.0, 0.5):
        grown = growth(PLAIN)
        std = grown.model.encoder.blocks[1].mixer.query.weight.detach().std()
        grown.grow(spec("transform", "hyperclone", times=times, noise=noise))
        weights.append(grown.model.encoder.blocks[1].mixer.query.weight.detach())
    added = weights[1] - weights[0]
    assert float(added.view(len(added), times, -1).sum(dim=1).abs().max()) < 1e-12
    assert float(added.std() / std) == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("make", ["tied rms", "grouped heads, biases, untied"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_moments_are_those_of_the_new_gradients(growth: Any, make: str, diagonal: bool) -> None:
    grown = growth(MAKES[make])
    grown.remember_gradients()
    grown.grow(spec("transform", "hyperclone", diagonal=diagonal))
    gradients, first, second = grown.gradients(), grown.moments("exp_avg"), grown.moments("exp_avg_sq")
    for name, gradient in gradients.items():
        torch.testing.assert_close(first[name], gradient, rtol=1e-8, atol=1e-12, msg=name)
        torch.testing.assert_close(second[name], gradient**2, rtol=1e-8, atol=1e-14, msg=name)


def test_noise_lets_clones_part(growth: Any) -> None:
    apart = {}
    for noise in (0.0, 0.3):
        grown = growth(PLAIN)
        grown.train(5)
        grown.grow(spec("transform", "hyperclone", noise=noise))
        grown.train(10)
        weight = grown.model.embedding.weight.detach()
        apart[noise] = float((weight[:, :16] - weight[:, 16:]).norm() / weight.norm())
    assert apart[0.0] < 1e-10 < 1e-4 < apart[0.3]
