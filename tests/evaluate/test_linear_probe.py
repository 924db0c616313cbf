"""The linear probe: scikit-learn's solution, chosen strength, no randomness."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.resolve import spec


def test_solves_what_scikit_learn_solves(setting: Any) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    draw = torch.Generator().manual_seed(0)
    x, label = torch.randn(80, 5, generator=draw, dtype=torch.float64), torch.randint(0, 3, (80,), generator=draw)
    weight = spec("evaluate", "linear_probe", steps=500).build(layout=setting.layout).solved(x, label, 3, 0.05)
    theirs = linear.LogisticRegression(C=1 / (0.05 * 80), tol=1e-10, max_iter=5000).fit(x.numpy(), label.numpy())
    # The problem does not fix a constant that all classes share.
    torch.testing.assert_close(
        weight[:, :-1] - weight[:, :-1].mean(0), torch.from_numpy(theirs.coef_ - theirs.coef_.mean(0)), rtol=1e-4, atol=1e-5
    )


def test_tells_classes_of_pictures_apart_and_repeats(setting: Any) -> None:
    evaluator = spec("evaluate", "linear_probe", l2=[1e-3, 1e-1]).build(layout=setting.layout)
    found = setting.measure(evaluator)
    assert found["accuracy"] > 0.5 and found["train_accuracy"] >= found["accuracy"] - 0.1 and found["l2"] in (1e-3, 1e-1)
    assert setting.measure(evaluator) == found


def test_labels_without_meaning_are_not_learned(setting: Any) -> None:
    def shuffled(windows: Any) -> Any:
        for window in windows:
            yield [micro | {"label": (micro["rows"] * 7919 + 13) // 5 % 4} for micro in window]

    found = setting.measure(
        spec("evaluate", "linear_probe").build(layout=setting.layout),
        windows=shuffled(setting.windows()),
        training=lambda rows: shuffled(setting.training(rows)),
    )
    assert found["accuracy"] < 0.5
