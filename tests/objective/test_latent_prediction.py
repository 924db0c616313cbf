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
from ingot.core.resolve import resolve, spec
from ingot.core.seams import Field

FIELDS = {"image": Field((3, 24, 16), "uint8"), "numbers": Field((12,)), "numbers_missing": Field((12,), "bool")}
MIXER = {"name": "attention", "heads": 2, "position": None}
PATCH = {"name": "patch", "patch": 4}


def model(embedding: Any = PATCH, layers: dict[str, Any] | None = None, **knobs: Any) -> Any:
    torch.manual_seed(0)
    tree = {
        "width": 16,
        "embedding": embedding,
        "encoder": {"name": "transformer", "depth": 1, "mixer": MIXER} | (layers or {}),
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


@pytest.mark.parametrize(
    "layers",
    [
        {"linear": "static_sparse"},
        {"linear": {"name": "sltrain", "rank": 2}},
        {"linear": "sparse24"},
        {"feedforward": {"name": "moe", "experts": 3, "router": "bias_balanced"}, "dropout": 0.1},
    ],
    ids=["static_sparse", "sltrain", "sparse24", "bias_balanced"],
)
def test_teacher_has_the_students_buffers_and_its_own_salts(layers: dict[str, Any]) -> None:
    """Masks and places are drawn by a layer's path, which is another in the teacher; biases move in training."""
    built = model("columns", layers).eval()
    spec("model.init", "normal").build().apply(built, seed=0)
    built.objective.begin(built)
    given = {"rows": torch.arange(4), "key": torch.tensor(0), "numbers": torch.randn(4, 12), "numbers_missing": torch.zeros(4, 12).bool()}
    student, teacher = (built.encode(given, causal=False, tower=tower) for tower in (None, built.objective.teacher))
    assert torch.equal(student, teacher)
    for name, value in built.encoder.named_buffers():
        if name.endswith("router.bias"):
            value.copy_(torch.tensor([0.3, -0.2, 0.1]))
    built.objective.stepped(SimpleNamespace(model=built), {})
    held = dict(built.objective.teacher.encoder.named_buffers())
    for name, value in built.encoder.named_buffers():
        assert torch.equal(held[name], value) != name.endswith("salt")


def test_forget_is_the_distance_of_momentum_from_one() -> None:
    given: list[dict[str, Any]] = [{"momentum": 0.75}, {"forget": 0.25}, {"momentum": 0.9, "forget": 0.25}]
    assert [model(**knobs).objective.forget for knobs in given] == [0.25] * 3


def test_a_grid_that_the_data_does_not_have_is_refused() -> None:
    """The predictor's positions are those of the model's grid."""
    with pytest.raises(UserError, match="has positions for 8 x 8 places, and the data gives 6 x 4"):
        model(PATCH | {"image": 32})
    other = batch(2)
    with pytest.raises(UserError, match="has positions for 6 x 4 places, and the data gives 4 x 4"):
        model().objective.prepare(other | {"image": other["image"][:, :, :16]})


def test_too_large_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="leave nothing to see"):
        model(blocks=6, size=0.2)
