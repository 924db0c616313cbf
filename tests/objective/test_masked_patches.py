"""MAE: exactly the share that is said is hidden, the encoder never sees it, targets are normalized patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.build.check import check
from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe, merge_keys
from ingot.core.resolve import resolve
from ingot.core.seams import Field

FIELDS = {"image": Field((3, 16, 16), "uint8")}
MIXER = {"name": "attention", "heads": 2, "position": None}
TREE: dict[str, Any] = {
    "width": 16,
    "embedding": {"name": "patch", "patch": 4, "class_token": True},
    "encoder": {"name": "transformer", "depth": 1, "mixer": MIXER},
    "decoder": {"name": "transformer", "depth": 1, "inner": 8, "cross": None, "mixer": MIXER},
    "objective": "masked_patches",
}


def model(**knobs: Any) -> Any:
    torch.manual_seed(0)
    tree = TREE | {"objective": {"name": "masked_patches"} | knobs}
    return build_model(resolve(Recipe(tree), Graph), vocabulary=None, sequence=1, specials={}, dtype=torch.float32, fields=FIELDS)


def batch(rows: int = 64) -> dict[str, torch.Tensor]:
    image = torch.randint(0, 256, (rows, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return {"rows": torch.arange(rows), "key": torch.tensor(0), "image": image}


@pytest.mark.parametrize(("rate", "kept"), [(0.75, 4), (0.5, 8), (0.9, 1)])
def test_exactly_the_share_is_hidden(rate: float, kept: int) -> None:
    prepared = model(rate=rate).objective.prepare(batch())
    assert prepared["kept"].shape == (64, kept) and (prepared["units"] == 16 - kept).all()
    everything = torch.cat([prepared["kept"], prepared["hidden"]], dim=1).sort(dim=1).values
    assert torch.equal(everything, torch.arange(16).expand(64, 16))
    counts = torch.bincount(prepared["kept"].flatten(), minlength=16)
    assert counts.min() > 0 if kept > 1 else True
    assert len({tuple(row) for row in prepared["kept"].tolist()}) > 10


def test_what_is_hidden_is_not_seen_and_what_is_seen_matters() -> None:
    built = model().eval()
    given = built.objective.prepare(batch(2))
    patches = built.embedding.values(given)
    before = built.objective.predicted(built, given)

    def with_noise(places: torch.Tensor) -> torch.Tensor:
        changed = given["image"].clone()
        for row, chosen in enumerate(places.tolist()):
            for place in chosen:
                y, x = 4 * (place // 4), 4 * (place % 4)
                changed[row, :, y : y + 4, x : x + 4] = 255 - changed[row, :, y : y + 4, x : x + 4]
        return built.objective.predicted(built, given | {"image": changed})

    assert torch.equal(with_noise(given["hidden"]), before)
    assert not torch.allclose(with_noise(given["kept"]), before)
    assert patches.shape == (2, 16, 48)


def test_targets_and_loss() -> None:
    built = model()
    given = built.objective.prepare(batch(3))
    target = built.objective.targets(given)
    torch.testing.assert_close(target.mean(dim=-1), torch.zeros(3, 12), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(dim=-1), torch.ones(3, 12), atol=1e-3, rtol=0)
    place = int(given["hidden"][1, 0])
    raw = given["image"][1, :, 4 * (place // 4) : 4 * (place // 4) + 4, 4 * (place % 4) : 4 * (place % 4) + 4].flatten().float() / 255
    plain = model(norm=False).objective.targets(given)[1, 0]
    torch.testing.assert_close(plain, (raw - 0.5) / 0.5)
    error = (built.objective.predicted(built, given) - target).square().mean(dim=-1).sum(dim=1)
    torch.testing.assert_close(built(given)["squared_error"], error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": None}, "needs a light decoder"),
        ({"decoder": {"cross": {"name": "cross_attention", "heads": 2}}}, "set model.decoder.cross to null"),
        ({"objective": {"name": "masked_patches", "rate": 1.0}}, "between 0 and 1"),
        ({"encoder": {"mixer": {"position": "relative"}}}, "gives the encoder a part of them"),
        ({"decoder": {"mixer": {"position": "relative"}}}, "gives the decoder a part of them"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    run = {
        "name": "x",
        "data": {"train": "synthetic_images"},
        "model": merge_keys(TREE, change),
        "stages": [{"budget": "1 steps", "batch": "4 images", "optimizer": {"name": "adamw", "lr": 0.01}}],
    }
    assert any(message in str(problem) for problem in check(Recipe(run))[1])
