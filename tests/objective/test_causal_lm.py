"""Targets of causal language modeling."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.build.check import check
from ingot.core.axes import axes_of
from ingot.core.resolve import spec

LAYER = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}


def test_targets_are_the_next_token_of_the_same_document() -> None:
    objective = spec("objective", "causal_lm").build(width=8, vocabulary=20)
    tokens = torch.tensor([[5, 6, 7, 8, 9, 0], [1, 2, 3, 4, 5, 6]])
    batch = {"tokens": tokens, "segments": torch.tensor([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])}
    prepared = objective.prepare(batch)
    assert prepared["targets"].tolist() == [[6, 7, -100, 9, -100, -100], [2, 3, 4, 5, 6, -100]]
    assert prepared["units"].tolist() == [3, 5]
    assert "targets" not in batch and objective.prepare({"tokens": tokens})["units"].tolist() == [5, 5]


def test_a_tied_head_is_registered_once_and_an_untied_one_labeled() -> None:
    assert not list(spec("objective", "causal_lm").build(width=8, vocabulary=20).parameters())
    axes = axes_of(spec("objective", "causal_lm", tied=False, bias=True).build(width=8, vocabulary=20))
    assert axes == {"head.weight": (("vocabulary", "width"), "head"), "bias": (("vocabulary",), "bias")}


@pytest.mark.parametrize("objective", ["causal_lm", {"name": "multi_token", "heads": 2, "layer": LAYER}])
def test_rows_without_a_next_token_are_refused(tiny_recipe: Any, objective: Any) -> None:
    for sequence, refused in ((1, True), (32, False)):
        patch = {"data": {"sequence": sequence}, "model": {"objective": objective}}
        found = [problem.message for problem in check(tiny_recipe(patch))[1]]
        assert any("no next one to predict" in message for message in found) == bool(found) == refused
