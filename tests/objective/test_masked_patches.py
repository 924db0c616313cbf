"""MAE: exactly the share that is said is hidden, the encoder never sees it, targets are normalized patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.build.check import check
from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe, merge_keys
from ingot.core.resolve import resolve, spec
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


def model(change: dict[str, Any] | None = None, fields: dict[str, Field] = FIELDS, **knobs: Any) -> Any:
    torch.manual_seed(0)
    tree = merge_keys(TREE | {"objective": {"name": "masked_patches"} | knobs}, change or {})
    return build_model(resolve(Recipe(tree), Graph), vocabulary=None, sequence=1, specials={}, dtype=torch.float32, fields=fields)


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


def test_an_exact_multiple_is_not_rounded_down() -> None:
    """25 (1 - 0.8) is 4.999 in floating point."""
    built = model({"embedding": {"patch": 1}}, {"image": Field((3, 5, 5), "uint8")}, rate=0.8)
    given = {"rows": torch.arange(2), "key": torch.tensor(0), "image": torch.zeros(2, 3, 5, 5, dtype=torch.uint8)}
    assert built.objective.prepare(given)["kept"].shape == (2, 5)


def test_a_grid_that_the_data_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="has positions for 8 x 8 places, and the data gives 4 x 4"):
        model({"embedding": {"image": 32}})
    with pytest.raises(UserError, match="has positions for 4 x 4 places, and the data gives 2 x 4"):
        model().objective.prepare({key: value[:, :, :8] if key == "image" else value for key, value in batch(2).items()})


def test_width_transfer_scales_what_the_head_reads_where_it_is_as_wide_as_the_model() -> None:
    init = spec("model.init", "mup", base_width=8).build()
    wide, own = model({"decoder": {"inner": None}}).eval(), model().eval()
    given = wide.objective.prepare(batch(2))
    for built in (wide, own):
        init.apply(built, 0)
    found = wide.objective.predicted(wide, given)
    assert wide.objective.output_scale == 0.5 and not hasattr(own.objective, "output_scale")
    wide.objective.output_scale = 1.0
    bias = wide.objective.head.bias
    torch.testing.assert_close(found - bias, 0.5 * (wide.objective.predicted(wide, given) - bias))


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
        ({"objective": {"name": "masked_patches", "position": "rotary"}}, "wants one that is added to vectors"),
        ({"objective": {"name": "latent_prediction", "position": "rotary"}}, "wants one that is added to vectors"),
        ({"embedding": {"name": "series_patch", "patch": 4}}, "for embedding 'series_patch' use masked_series"),
        ({"embedding": {"name": "columns"}}, "for embedding 'columns' use masked_columns"),
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
