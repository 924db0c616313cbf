"""Mixup: images and labels in the same proportion, a share that follows the Beta distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingot.core.resolve import spec

ONE = {"image": np.full((3, 4, 4), 200, dtype=np.uint8), "label": 1}
OTHER = {"image": np.full((3, 4, 4), 100, dtype=np.uint8), "label": 2}


def draws(count: int = 400, **knobs: Any) -> list[dict[str, Any]]:
    augment, draw = spec("data.augment", "mixup", **knobs).build(), np.random.default_rng(0)
    return [augment.mix(ONE, OTHER, draw) for _ in range(count)]


def test_the_picture_is_blended_as_the_labels_are() -> None:
    for row in draws():
        assert row["image"].astype(float).mean() == pytest.approx(100 + 100 * float(row["label_share"]), abs=0.51)
        assert (row["label"], row["label_other"]) == (1, 2)


def test_shares_are_beta_distributed() -> None:
    shares = np.array([row["label_share"] for row in draws(2000, alpha=0.8)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03) and shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)


def test_not_every_row_is_mixed_and_none_twice() -> None:
    rows = draws(probability=0.25)
    whole = [row for row in rows if row["label_share"] == 1]
    assert 270 < len(whole) < 330 and all(np.array_equal(row["image"], ONE["image"]) for row in whole)
    mixed = next(row for row in rows if row["label_share"] < 1)
    again = spec("data.augment", "mixup").build().mix(mixed, OTHER, np.random.default_rng(1))
    assert again["label_share"] == mixed["label_share"] and np.array_equal(again["image"], mixed["image"])
