"""I-JEPA: blocks are blocks, the context never shows them, targets come from the whole image through the teacher."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.core.seams import Field

FIELDS = {"image": Field((3, 24, 16), "uint8")}
MIXER = {"name": "attention", "heads": 2, "position": None}


def model(**knobs: Any) -> Any:
    torch.manual_seed(0)
    tree = {
        "width": 16,
        "embedding": {"name": "patch", "patch": 4, "image": None},
        "encoder": {"name": "transformer", "depth": 1, "mixer": MIXER},
        "decoder": {"name": "transformer", "depth": 1, "inner": 8, "cross": None, "mixer": MIXER},
        "objective": {"name": "latent_prediction", "blocks": 2} | knobs,
    }
    return build_model(resolve(Recipe(tree), Graph), vocabulary=None, sequence=1, specials={}, dtype=torch.float32, fields=FIELDS)


def batch(rows: int = 32) -> dict[str, torch.Tensor]:
    image = torch.randint(0, 256, (rows, 3, 24, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return {"rows": torch.arange(rows), "key": torch.tensor(0), "image": image}


def test_blocks_are_rectangles_and_the_context_is_outside() -> None:
    built = model()  # 6 x 4 positions, blocks of 2 x 2
    prepared = built.objective.prepare(batch())
    assert prepared["hidden"].shape == (32, 2, 4) and prepared["kept"].shape == (32, 24 - 8)
    for kept, blocks in zip(prepared["kept"].tolist(), prepared["hidden"].tolist(), strict=True):
        assert len(set(kept)) == 16 and not set(kept) & {place for block in blocks for place in block}
        for block in blocks:
            top, left = block[0] // 4, block[0] % 4
            assert block == [y * 4 + x for y in (top, top + 1) for x in (left, left + 1)] and left <= 2 and top <= 4
    assert len({tuple(block[0]) for block in prepared["hidden"].tolist()}) > 5


def test_predictions_do_not_see_the_blocks_and_targets_do() -> None:
    built = model().eval()
    given = built.objective.prepare(batch(1))
    changed = given["image"].clone()
    for place in given["hidden"].flatten().tolist():
        y, x = 4 * (place // 4), 4 * (place % 4)
        changed[0, :, y : y + 4, x : x + 4] = 255 - given["image"][0, :, y : y + 4, x : x + 4]
    other = given | {"image": changed}
    assert torch.equal(built.encode(given, causal=False), built.encode(other, causal=False))
    assert not torch.allclose(built.objective.targets(built, given), built.objective.targets(built, other))
    s = built.objective.targets(built, given)
    assert s.shape == (1, 8, 16) and not s.requires_grad
    torch.testing.assert_close(s.mean(dim=-1), torch.zeros(1, 8), atol=1e-5, rtol=0)


def test_teacher_follows_by_its_share_and_has_no_gradient() -> None:
    built = model(momentum=0.75).double()
    built.objective.begin(built)
    built.compute_dtype = torch.float64
    built(built.objective.prepare(batch(2)))["latent"].sum().backward()
    assert all(weight.grad is None for weight in built.objective.teacher.parameters())
    with torch.no_grad():
        built.encoder.blocks[0].mixer.query.weight.add_(1.0)
    old = built.objective.teacher.encoder.blocks[0].mixer.query.weight.clone()
    built.objective.stepped(SimpleNamespace(model=built), {})
    torch.testing.assert_close(built.objective.teacher.encoder.blocks[0].mixer.query.weight - old, torch.full_like(old, 0.25))


def test_too_large_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="leave nothing to see"):
        model(blocks=6, size=0.2)
