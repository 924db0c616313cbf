"""A recipe's shape at another size."""

from __future__ import annotations

import copy
from typing import Any

from ingot.scaling.shape import at_size

TREE: dict[str, Any] = {"model": {"width": 64, "encoder": {"depth": 4, "mixer": {"heads": 4}}}}


def count(tree: dict[str, Any]) -> int:
    """12 width^2 depth, and a table of 256 bytes."""
    return int(12 * tree["model"]["width"] ** 2 * tree["model"]["encoder"]["depth"] + 256 * tree["model"]["width"])


def test_width_and_depth_grow_alike_and_heads_keep_their_width() -> None:
    before = copy.deepcopy(TREE)
    for times in (2, 8, 100):
        found = at_size(TREE, times * count(TREE), count)
        grown = {"model": {"width": found["model.width"], "encoder": {"depth": found["model.encoder.depth"]}}}
        assert 0.75 < count(grown) / (times * count(TREE)) < 1.33
        assert found["model.width"] == 16 * found["model.encoder.mixer.heads"]
        assert 0.6 < (found["model.width"] / 64) / (found["model.encoder.depth"] / 4) < 1.7
    assert before == TREE


def test_its_own_size_is_its_own_shape() -> None:
    assert at_size(TREE, count(TREE), count) == {"model.width": 64, "model.encoder.depth": 4, "model.encoder.mixer.heads": 4}


def test_without_depth_the_width_grows_alone() -> None:
    tree = {"model": {"width": 32}}
    assert at_size(tree, 16 * 32 * 32, lambda one: one["model"]["width"] ** 2) == {"model.width": 128}
