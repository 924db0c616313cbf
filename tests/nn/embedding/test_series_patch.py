"""Patches of series: which values, whose mean, channels apart, and what is not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.core.seams import Field
from ingot.nn.context import Context

FIELDS = {"series": Field((10, 2))}


def built(**knobs: Any) -> Any:
    torch.manual_seed(0)
    return spec("nn.embedding", "series_patch", **{"patch": 4} | knobs).build(width=8, linear=spec("nn.linear", "dense"), fields=FIELDS)


def batch(rows: int = 3) -> dict[str, torch.Tensor]:
    return {"series": torch.randn(rows, 10, 2, generator=torch.Generator().manual_seed(1)) * 3 + 5}


def test_patches_end_with_the_series() -> None:
    steps = {"series": torch.arange(10.0)[None, :, None].expand(1, -1, 2) * torch.tensor([1.0, -1.0])}
    assert built(normalize=None).values(steps)[0, :, 0].tolist() == [2, 6, -2, -6]
    assert built(normalize=None, stride=3).values(steps)[0, :3, 0].tolist() == [0, 3, 6]
    padded = built(normalize=None, stride=3, pad=True).values(steps)
    assert padded.shape == (1, 8, 4) and padded[0, 3].tolist() == [9, 9, 9, 9]


def test_normalized_by_what_was_observed() -> None:
    embedding, given = built(stride=2), batch()
    seen = torch.rand(given["series"].shape, generator=torch.Generator().manual_seed(2)) > 0.3
    given = {"series": torch.where(seen, given["series"], 99.0), "observed": seen}
    z = embedding.values(given)
    mean, std = embedding.scale(given)
    for row in range(3):
        real = given["series"][row, seen[row, :, 1], 1]
        torch.testing.assert_close(mean[row, 0, 1], real.mean())
        torch.testing.assert_close(std[row, 0, 1], (real.var(unbiased=False) + 1e-5).sqrt())
    there = embedding.seen(given)
    assert not z[~there].any() and float(z.abs().max()) < 5


def test_a_level_and_a_scale_change_nothing() -> None:
    given = batch()
    context = Context()
    one = built()(given, context)
    torch.testing.assert_close(one, built()({"series": given["series"] * 7 - 30}, Context()), rtol=1e-4, atol=1e-4)


def test_channels_are_documents() -> None:
    context = Context()
    x = built()(batch(), context)
    assert x.shape == (3, 4, 8) and context.even == 2
    assert context.segments_BT[0].tolist() == [1, 1, 2, 2] and context.positions_BT[0].tolist() == [0, 1, 0, 1]
    together = Context()
    assert built(independent=False)(batch(), together).shape == (3, 4, 8)
    assert together.segments_BT is None and together.positions_BT[0].tolist() == [0, 1, 2, 3]


def test_attention_over_equal_documents_is_that_within_segments() -> None:
    x, context = built()(batch(), held := Context(causal=False)), held
    mixer = spec("nn.mixer", "attention", heads=2).build(width=8, linear=spec("nn.linear", "dense"), layer=0, depth=1, sequence=2)
    folded = mixer(x, context)
    context.even = None
    torch.testing.assert_close(folded, mixer(x, context), rtol=1e-5, atol=1e-6)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="reads series of 10 x 2, the data gives"):
        built().values({"series": torch.zeros(1, 9, 2)})
    with pytest.raises(UserError, match="a patch of 11 does not fit"):
        built(patch=11)
    with pytest.raises(UserError, match="the data gives no series"):
        spec("nn.embedding", "series_patch", patch=4).build(width=8, linear=spec("nn.linear", "dense"), fields={})
