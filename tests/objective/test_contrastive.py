"""NT-Xent against the sum written out, and rows that do not count."""

from __future__ import annotations

from typing import Any

import torch

from ingot.build.check import check
from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.core.seams import Field

FIELDS = {"image": Field((3, 8, 8), "uint8"), "image_1": Field((3, 8, 8), "uint8")}
TREE = {
    "width": 16,
    "embedding": {"name": "patch", "patch": 4},
    "encoder": {"name": "transformer", "depth": 1, "dropout": 0.3, "mixer": {"name": "attention", "heads": 2}},
    "objective": {"name": "contrastive", "outputs": 6, "temperature": 0.3},
}


def model() -> Any:
    torch.manual_seed(0)
    return build_model(resolve(Recipe(TREE), Graph), vocabulary=None, sequence=1, specials={}, dtype=torch.float32, fields=FIELDS)


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    image, other = torch.randint(0, 256, (2, 5, 3, 8, 8), generator=draw, dtype=torch.uint8)
    return {"rows": torch.tensor([0, 1, 2, 3, -1]), "key": torch.tensor(0), "image": image, "image_1": other}


def test_loss_is_the_papers() -> None:
    built = model().eval()
    given = built.objective.prepare(batch())
    z = built.objective.represent(built, given)
    both = torch.cat([z["one"][:4], z["other"][:4]]).double()
    torch.testing.assert_close(both.norm(dim=1), torch.ones(8, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    expected = torch.zeros(4, dtype=torch.float64)
    for i in range(8):
        below = sum(torch.exp(both[i] @ both[j] / 0.3) for j in range(8) if j != i)
        expected[i % 4] -= torch.log(torch.exp(both[i] @ both[(i + 4) % 8] / 0.3) / below) / 2
    found = built(given)["contrastive"]
    torch.testing.assert_close(found[:4].double(), expected, rtol=1e-5, atol=1e-5)
    assert found[4] == 0 and given["units"].tolist() == [1, 1, 1, 1, 0]


def test_two_looks_differ_in_what_is_drawn_by_row() -> None:
    built = model()
    same = batch() | {"image_1": batch()["image"]}
    z = built.objective.represent(built.train(), same)
    assert not torch.allclose(z["one"], z["other"])
    z = built.objective.represent(built.eval(), same)
    assert torch.equal(z["one"], z["other"])


def test_one_look_is_refused_in_training_and_serves_in_evaluation() -> None:
    data = {"train": "synthetic_images", "augment": ["flip"]}
    run = {
        "name": "x",
        "data": data,
        "model": TREE,
        "stages": [{"budget": "1 steps", "batch": "4 images", "optimizer": {"name": "adamw", "lr": 0.01}}],
    }
    assert any("several looks" in str(problem) for problem in check(Recipe(run))[1])
    assert not check(Recipe(run | {"data": data | {"views": 2}}))[1]
    built = model().eval()
    alone = {key: value for key, value in batch().items() if key != "image_1"}
    assert built(built.objective.prepare(alone))["contrastive"].isfinite().all()
