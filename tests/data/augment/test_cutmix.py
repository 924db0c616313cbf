"""CutMix: a rectangle of the other, and the share of pixels that are left."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.core.resolve import spec

ONE = {"image": np.full((3, 10, 14), 200, dtype=np.uint8), "label": 1}
OTHER = {"image": np.full((3, 10, 14), 100, dtype=np.uint8), "label": 2}


def test_the_share_is_that_of_the_pixels_left() -> None:
    augment, draw = spec("data.augment", "cutmix").build(), np.random.default_rng(0)
    for _ in range(300):
        row = augment.mix(ONE, OTHER, draw)
        kept = row["image"][0] == 200
        assert float(row["label_share"]) == pytest.approx(kept.mean(), abs=1e-6)
        columns, rows = (~kept).any(axis=0), (~kept).any(axis=1)
        assert (~kept).sum() == columns.sum() * rows.sum()  # one rectangle
    assert ONE["image"].min() == 200


def test_both_kinds_together_mix_each_row_once() -> None:
    cutmix, mixup, draw = (
        spec("data.augment", "cutmix", probability=0.5).build(),
        spec("data.augment", "mixup").build(),
        np.random.default_rng(0),
    )
    rows = [mixup.mix(cutmix.mix(ONE, OTHER, draw), OTHER, draw) for _ in range(200)]
    cut = [set(np.unique(row["image"])) <= {100, 200} for row in rows]
    assert 70 < sum(cut) < 130
