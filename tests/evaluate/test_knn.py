"""Nearest neighbors: scikit-learn's votes, and better than chance on pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.resolve import spec


def test_votes_are_scikit_learns(setting: Any) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    draw = torch.Generator().manual_seed(0)
    known, x = (torch.randn(size, 6, generator=draw, dtype=torch.float64) for size in (60, 25))
    label = torch.randint(0, 4, (60,), generator=draw)
    votes = spec("evaluate", "knn", k=7, temperature=0.2).build(layout=setting.layout).votes(x, known, label, 4)
    theirs = neighbors.KNeighborsClassifier(7, metric="cosine", weights=lambda distance: _closeness(distance)).fit(
        known.numpy(), label.numpy()
    )
    torch.testing.assert_close(votes / votes.sum(1, keepdim=True), torch.from_numpy(theirs.predict_proba(x.numpy())))


def _closeness(distance: Any) -> Any:
    import numpy as np

    return np.exp((1 - distance) / 0.2)


def test_finds_the_classes_of_pictures(setting: Any) -> None:
    found = setting.measure(spec("evaluate", "knn", k=5).build(layout=setting.layout))
    assert 0.5 < found["accuracy"] <= 1.0


def test_rows_limit_what_is_known(setting: Any) -> None:
    asked = []
    setting.measure(
        spec("evaluate", "knn", rows=24).build(layout=setting.layout), training=lambda rows: asked.append(rows) or setting.training(rows)
    )
    assert asked == [24]
