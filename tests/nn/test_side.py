"""What layers leave is each row's own, however many forwards a row takes and whatever stands beside it in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec
from ingot.core.seams import Field
from ingot.nn.side import Gathered
from ingot.parallel.layout.single import Single
from ingot.train.step import forward_backward

MOE = {"name": "moe", "experts": 4, "expert": {"name": "gelu", "hidden": 8}, "router": {"name": "top_k", "top_k": 2}}
STACK = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2, "position": None}, "feedforward": MOE}


def model(objective: str, **more: Any) -> Any:
    tree = {"width": 16, "embedding": {"name": "patch", "patch": 4}, "encoder": STACK, "objective": {"name": objective} | more}
    tree |= {"decoder": STACK | {"inner": 8, "cross": None}} if objective == "latent_prediction" else {}
    keys = (
        {"image": 16}
        if objective == "latent_prediction"
        else {"image": 16, "image_1": 16} | ({"image_2": 8} if "distillation" in objective else {})
    )
    fields = {key: Field((3, size, size), "uint8") for key, size in keys.items()}
    built = build_model(resolve(Recipe(tree), Graph), vocabulary=None, sequence=1, specials={}, dtype=torch.float64, fields=fields).double()
    spec("model.init", "normal", std=0.3).build().apply(built, seed=0)
    draw = torch.Generator().manual_seed(1)
    images = {key: torch.randint(0, 256, (6, 3, size, size), generator=draw, dtype=torch.uint8) for key, size in keys.items()}
    return built, built.objective.prepare(images | {"rows": torch.tensor([0, 1, 2, 3, 4, -1]), "key": torch.tensor(0)})


@pytest.mark.parametrize(
    ("objective", "knobs", "choices"),
    [
        ("contrastive", {"outputs": 6}, [5 * 2 * 16 * 2]),
        ("self_distillation", {"outputs": 6, "bottleneck": 4}, [5 * (2 * 16 + 4) * 2]),
        ("latent_prediction", {"blocks": 2, "size": 0.25}, [5 * 8 * 2, 5 * 2 * (8 + 4) * 2]),
    ],
)
def test_several_looks_of_a_row_are_the_row_s(objective: str, knobs: dict[str, Any], choices: list[int]) -> None:
    found = []
    for parts in ([slice(0, 6)], [slice(0, 2), slice(2, 6)]):
        built, batch = model(objective, **knobs)
        window = [{key: value if value.dim() == 0 else value[part] for key, value in batch.items()} for part in parts]
        found.append(forward_backward(built, window, Single(), {"balance": 0.5}))
        found[-1].gradient = built.encoder.blocks[0].feedforward.router.weight.grad
    torch.testing.assert_close(found[0].side["balance"], found[1].side["balance"])
    torch.testing.assert_close(found[0].gradient, found[1].gradient)
    routed = [int(counts["routed"]) for path, counts in found[0].counts.items() if path.endswith("router")]
    assert routed == choices


def test_rows_counts_and_measures_are_put_together() -> None:
    layer = nn.Identity()
    layer.side, sides = None, Gathered(nn.Sequential(layer))
    for places, value in (([0, 2], 1.0), ([2], 3.0)):
        layer.side = {"row": torch.full((len(places),), value), "count/load": torch.tensor([1, 2]), "share": torch.tensor(value)}
        sides.take(torch.tensor(places), torch.tensor([True] * len(places)), 3)
        assert layer.side is None
    sides.leave()
    assert {name: found.tolist() for name, found in layer.side.items()} == {"row": [1.0, 0.0, 4.0], "count/load": [2, 4], "share": 2.0}
