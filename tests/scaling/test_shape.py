"""A recipe's shape at another size."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ingot.core.errors import UserError
from ingot.scaling.shape import at_size, with_settings

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


def test_shared_keys_decoders_and_their_own_widths_grow_too() -> None:
    """Queries share their keys as before; a decoder deepens with the encoder; what has a width of its own keeps its share."""
    encoder = {"depth": 4, "mixer": {"heads": 4, "kv_heads": 2}, "feedforward": {"name": "gelu", "hidden": 96}}
    decoder = {"depth": 2, "inner": 32, "mixer": {"heads": 4}, "cross": {"heads": 4}}
    tree = {"model": {"width": 64, "encoder": encoder, "decoder": decoder}}

    def both(tree: dict[str, Any]) -> int:
        model = tree["model"]
        return int(12 * (model["width"] ** 2 * model["encoder"]["depth"] + model["decoder"]["inner"] ** 2 * model["decoder"]["depth"]))

    found = at_size(tree, 64 * both(tree), both)
    assert 0.9 < both(with_settings(tree, found)) / (64 * both(tree)) < 1.1
    assert found["model.encoder.mixer.heads"] == 2 * found["model.encoder.mixer.kv_heads"]
    assert found["model.width"] == 16 * found["model.encoder.mixer.heads"] == 2 * found["model.decoder.inner"]
    assert found["model.decoder.mixer.heads"] == found["model.decoder.cross.heads"] == found["model.encoder.mixer.heads"]
    assert found["model.encoder.feedforward.hidden"] == 1.5 * found["model.width"] and found["model.decoder.depth"] > 2


def test_shapes_that_cannot_be_are_passed_over() -> None:
    def picky(tree: dict[str, Any]) -> int:
        if tree["model"]["width"] % 64:
            raise UserError("this width cannot be")
        return count(tree)

    found = at_size(TREE, 8 * count(TREE), picky)
    assert found["model.width"] % 64 == 0 and 0.8 < count(with_settings(TREE, found)) / (8 * count(TREE)) < 1.25
    with pytest.raises(UserError, match="this width cannot be"):
        at_size(TREE, 30 * count(TREE), lambda tree: count(tree) if tree == TREE else picky({"model": {"width": 1}}))
