"""Looks of several sizes: whole ones first, then small ones of small parts, each drawn by row number and view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ingot.build.check import resolve_run
from ingot.build.rows import fields_of
from ingot.core.errors import UserError
from ingot.core.recipe import load
from ingot.core.resolve import spec
from ingot.core.seams import Field
from ingot.nn.context import Context


def test_later_looks_are_small_and_of_small_parts() -> None:
    source = spec("data.source", "synthetic_images", count=6, size=16).build()
    crop = spec("data.augment", "resized_crop", area=(0.9, 1.0), small=8, small_area=(0.05, 0.2)).build()
    rows = source.augmented([crop], 4, 0)
    found = rows.rows(np.arange(6), np.arange(6))
    assert [found[key].shape[-2:] for key in ("image", "image_1", "image_2", "image_3")] == [(16, 16), (16, 16), (8, 8), (8, 8)]
    assert not np.array_equal(found["image_2"], found["image_3"]) and found["image_2"].any()
    assert {key: field.shape for key, field in rows.fields().items() if "image" in key} == {
        key: value.shape[1:] for key, value in found.items() if "image" in key
    }
    again = rows.rows(np.array([4]), np.array([4]))
    assert np.array_equal(again["image_3"][0], found["image_3"][4])


@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_positions_of_a_small_image_lie_between_those_of_the_whole(position: str) -> None:
    built = spec("nn.embedding", "patch", patch=4, position=position, class_token=True).build(
        width=8, linear=spec("nn.linear", "dense"), fields={"image": Field((3, 16, 16), "uint8")}
    )
    torch.manual_seed(0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)

    def embedded(side: int) -> torch.Tensor:
        x: torch.Tensor = built(
            {"image": torch.full((2, 3, side, side), 90, dtype=torch.uint8)}, Context(None, None, False, None, None, None)
        )
        return x

    assert embedded(8).shape == (2, 5, 8) and embedded(16).shape == (2, 17, 8)
    whole = built.position(torch.arange(17)[None]).float()
    torch.testing.assert_close(built.between((4, 4)), whole)
    small = built.between((2, 2))
    assert torch.equal(small[:, 0], whole[:, 0])
    torch.testing.assert_close(small[:, 1:].mean(dim=1), whole[:, 1:].mean(dim=1), rtol=0.5, atol=0.3)


def test_recipe_holds_both_sizes_and_disagreement_is_refused(repository: Path) -> None:
    path = repository / "recipes/vision/dino_tiny.yaml"
    fields = fields_of(resolve_run(load(path, tiny=True)).data, Path())
    assert fields["image_1"].shape[-1] > fields["image_2"].shape[-1]
    with pytest.raises(UserError, match="whole looks"):
        resolve_run(load(path, ["model.objective.whole=1"], tiny=True))
