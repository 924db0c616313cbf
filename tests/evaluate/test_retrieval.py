"""Recall at k: counted by hand, both ways, by concept."""

from __future__ import annotations

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.evaluate.retrieval import recall


def test_recall_is_counted_both_ways() -> None:
    angle = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    u = torch.stack([angle.cos(), angle.sin()], dim=1)
    other = torch.tensor([0.1, 0.9, 2.9, 2.1], dtype=torch.float64)  # the last two are exchanged
    v = torch.stack([other.cos(), other.sin()], dim=1)
    found = recall(torch.cat([u, v], dim=1), torch.arange(4), [1, 2])
    assert found == {"chance": 0.25, "forward_R@1": 0.5, "forward_R@2": 1.0, "backward_R@1": 0.5, "backward_R@2": 1.0}
    alike = recall(torch.cat([u, v], dim=1), torch.tensor([0, 1, 2, 2]), [1])
    assert alike["forward_R@1"] == alike["backward_R@1"] == 1.0 and alike["chance"] == pytest.approx(6 / 16)


def test_one_sided_objectives_are_refused() -> None:
    with pytest.raises(UserError, match="two sides"):
        spec("evaluate", "retrieval").build(layout=None)(torch.nn.Identity(), windows=[], objective=object(), fields={})
