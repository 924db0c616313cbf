"""SigLIP: every pair by itself, where scale and bias start, pooling by attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

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
}


def model(**knobs: Any) -> Any:
    torch.manual_seed(0)
    built = build_model(
        resolve(Recipe(TREE | {"objective": {"name": "siglip"} | knobs}), Graph),
        vocabulary=20,
        sequence=6,
        specials={},
        dtype=torch.float32,
        fields=FIELDS,
    )
    spec("model.init", "normal").build().apply(built, seed=0)
    return built


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "rows": torch.tensor([0, 1, 2, -1]),
        "key": torch.tensor(0),
        "image": torch.randint(0, 256, (4, 3, 8, 8), generator=draw, dtype=torch.uint8),
        "tokens": torch.randint(0, 20, (4, 6), generator=draw),
        "segments": torch.ones(4, 6, dtype=torch.int32),
        "positions": torch.arange(6).expand(4, 6),
    }


@pytest.mark.parametrize("knobs", [{}, {"pooling": "attention", "heads": 2}, {"outputs": 5}], ids=str)
def test_loss_is_the_papers(knobs: dict[str, Any]) -> None:
    built = model(**knobs)
    given = built.objective.prepare(batch())
    found = built.objective.represent(built, given)
    loss = built(given)["sigmoid"]
    for i in range(3):
        terms = [math.log1p(math.exp((-1 if i == j else 1) * (10 * float(found["main"][i] @ found["other"][j]) - 10))) for j in range(3)]
        assert float(loss[i]) == pytest.approx(sum(terms), rel=1e-4)
    assert loss[3] == 0
    assert found["main"].shape == found["other"].shape == (4, knobs.get("outputs") or 16)


def test_attention_pools_with_a_learned_query() -> None:
    built = model(pooling="attention", heads=2).double()
    pool, h = built.objective.main.attention, torch.randn(2, 5, 16, dtype=torch.float64)
    reference = torch.nn.MultiheadAttention(16, 2, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([pool.query.weight, pool.key.weight, pool.value.weight]))
        reference.out_proj.weight.copy_(pool.output.weight)
    x = reference(pool.weight.expand(2, 1, 16), h, h)[0][:, 0]
    y = x + pool.down(torch.nn.functional.gelu(pool.up(pool.norm(x)), approximate="tanh"))
    context = type("Context", (), {"segments_BT": None})()
    torch.testing.assert_close(pool(h, context), y)
    context.segments_BT = torch.tensor([[1, 1, 1, 0, 0], [0] * 5])
    torch.testing.assert_close(pool(h, context)[0], pool(h[:1, :3], type("Context", (), {"segments_BT": None})())[0])
