"""The linear probe: scikit-learn's solution, chosen strength, no randomness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ingot
from ingot.core.errors import UserError
from ingot.core.evaluating import evaluating
from ingot.core.resolve import spec
from ingot.evaluate._features import features

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


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


def test_reads_the_layer_it_is_told_to(setting: Any) -> None:
    """Behind the last block only the final norm is left, which centering and scaling do not undo; behind the first one all else differs."""
    model, windows = setting.model, list(setting.windows())
    ask = spec("evaluate", "linear_probe", layer=1).build(layout=setting.layout).ask
    found, *_ = features(model, windows, setting.layout, ask=ask)
    with evaluating(model):
        x, context = model.embed(windows[0][0], False)
        torch.testing.assert_close(found[:8], model.encoder.blocks[0](x, context).mean(dim=1).double())
    last, *_ = features(model, windows, setting.layout, ask=spec("evaluate", "knn", layer=2).build(layout=setting.layout).ask)
    assert (last - found).abs().max() > 0.1
    assert setting.measure(spec("evaluate", "linear_probe", layer=1).build(layout=setting.layout))["accuracy"] > 0.5


@pytest.mark.parametrize("name", ["linear_probe", "knn"])
def test_nothing_is_learned_from_rows_without_a_class(setting: Any, name: str) -> None:
    def training(rows: int | None) -> Any:
        return ([micro | {"label": torch.full_like(micro["label"], -100)} for micro in window] for window in setting.training(8))

    with pytest.raises(UserError, match=f"{name}: no training row has a label"):
        setting.measure(spec("evaluate", name).build(layout=setting.layout), training=training)


@pytest.mark.parametrize("name", ["linear_probe", "knn"])
def test_a_layer_that_is_not_there_is_named_by_check(name: str) -> None:
    with pytest.raises(UserError, match="layer: wants 7, but the encoder has 6"):
        ingot.build(RECIPES / "vision/vit_tiny.yaml", [f"evaluate.also=[{{name: {name}, layer: 7}}]"])
