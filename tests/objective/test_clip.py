"""CLIP: the symmetric cross entropy, where its scale starts and ends, what is missing."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ingot.build.check import check
from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec
from ingot.core.seams import Field

FIELDS = {"image": Field((3, 8, 8), "uint8")}
STACK = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}
TREE = {
    "width": 16,
    "embedding": {"name": "patch", "patch": 4},
    "encoder": STACK,
    "towers": {"text": {"width": 12, "embedding": "token", "encoder": STACK}},
    "objective": {"name": "clip", "outputs": 6},
}


def model(**knobs: Any) -> Any:
    torch.manual_seed(0)
    tree = TREE | {"objective": TREE["objective"] | knobs}  # type: ignore[operator]
    return build_model(resolve(Recipe(tree), Graph), vocabulary=20, sequence=6, specials={}, dtype=torch.float32, fields=FIELDS)


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    segments = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6, [0] * 6])
    return {
        "rows": torch.tensor([0, 1, 2, -1]),
        "key": torch.tensor(0),
        "image": torch.randint(0, 256, (4, 3, 8, 8), generator=draw, dtype=torch.uint8),
        "tokens": torch.randint(0, 20, (4, 6), generator=draw),
        "segments": segments,
        "positions": torch.arange(6).expand(4, 6),
    }


def test_loss_is_the_symmetric_cross_entropy_of_real_pairs() -> None:
    built = model()
    given = built.objective.prepare(batch())
    found = built.objective.represent(built, given)
    s = (found["main"] @ found["other"].T)[:3, :3] / 0.07
    each = torch.arange(3)
    expected = (F.cross_entropy(s, each, reduction="none") + F.cross_entropy(s.T, each, reduction="none")) / 2
    loss = built(given)["contrastive"]
    torch.testing.assert_close(loss[:3], expected)
    assert loss[3] == 0


def test_padding_of_a_text_is_not_seen() -> None:
    built, given = model(), batch()
    other = given | {"tokens": torch.where(given["segments"] > 0, given["tokens"], 7)}
    torch.testing.assert_close(built.objective.vectors(built, given, "other")[:3], built.objective.vectors(built, other, "other")[:3])


def test_scale_starts_as_told_and_is_bounded_after_every_update() -> None:
    built = model(temperature=0.1)
    spec("model.init", "normal").build().apply(built, seed=0)
    scale, state = built.objective.scale.weight.detach(), SimpleNamespace(model=built)
    assert float(scale) == pytest.approx(math.log(10))
    built.objective.stepped(state, {})
    assert float(scale) == pytest.approx(math.log(10))
    with torch.no_grad():
        scale.fill_(9.0)
    built.objective.stepped(state, {})
    assert float(scale) == pytest.approx(math.log(100.0))
    assert float(model(temperature=1e-3).objective.scale.weight) == pytest.approx(math.log(100.0))


@pytest.mark.parametrize("t", [4.6, 4.7])
def test_scale_has_a_gradient_on_both_sides_of_its_bound(t: float) -> None:
    """100 is exp(4.605): what stands there can go back."""
    built = model()
    given = built.objective.prepare(batch())
    with torch.no_grad():
        built.objective.scale.weight.fill_(t)
    built(given)["contrastive"].sum().backward()
    assert built.objective.scale.weight.grad.abs() > 0


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_tower_is_needed(name: str) -> None:
    tree = {key: value for key, value in TREE.items() if key != "towers"} | {"objective": name}
    run = {
        "name": "x",
        "data": {"train": {"name": "synthetic_images", "captions": True}, "tokenizer": "bytes"},
        "model": tree,
        "stages": [{"budget": "1 steps", "batch": "4 pairs", "optimizer": {"name": "adamw", "lr": 0.01}}],
    }
    assert any("no tower 'text'" in str(problem) for problem in check(Recipe(run))[1])
