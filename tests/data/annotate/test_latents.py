"""Latents: found once over all rows by encoders that do not change, equal to those encoders' own output, mixed by row number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ingot
from ingot.build.check import resolve_run
from ingot.build.latents import frozen
from ingot.build.run import Run
from ingot.core.errors import UserError
from ingot.core.recipe import load
from ingot.data.loader import Loader


@pytest.fixture
def run(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return Run(
        resolve_run(load(repository / "recipes/image_text/fusemix_emoji.yaml", ["data.train.count=40"], tiny=True)), tmp_path / "run"
    )


def entered(run: Any) -> Any:
    from ingot.build.annotate import annotate

    return annotate(run, {}, 0, entering=True)


def test_rows_hold_what_the_encoders_give(run: Any) -> None:
    data = run.data_of(0)
    plain = data.plain["synthetic_images"].sources["synthetic_images"]
    before = plain.rows(np.arange(5), np.arange(5))
    assert "found" in entered(run)
    rows = plain.rows(np.arange(5), np.arange(5))
    assert rows.keys() == {"rows", "label", "latent_image", "latent_text"} and np.array_equal(rows["label"], before["label"])
    chosen = run.section.stages[0].annotate
    batch = {key: torch.from_numpy(value) for key, value in before.items()} | {"key": run.key()}
    for name, one in chosen.knobs["encoders"].items():
        model = frozen(run, one, name).eval()
        h_BTD, context = model.encoded(batch, causal=False)
        weight = torch.ones(h_BTD.shape[:2]) if context.segments_BT is None else (context.segments_BT > 0).float()
        wanted = (h_BTD * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        np.testing.assert_allclose(rows[f"latent_{name}"], wanted.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert "reused" in entered(run)


def test_blends_depend_on_the_row_number_alone(run: Any) -> None:
    entered(run)
    stream = run.data_of(0).train
    whole = next(Loader(stream, start=8, rows_per_step=8, micro_rows=8, prefetch=0))[0]
    parts = [
        micro for rank in range(2) for micro in next(Loader(stream, start=8, rows_per_step=8, micro_rows=2, rank=rank, ranks=2, prefetch=0))
    ]
    for key in ("latent_image", "latent_text", "label"):
        assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])
    plain = run.data_of(0).plain["synthetic_images"].sources["synthetic_images"]
    _, _, ids = stream.locate(np.arange(8, 16))
    assert not np.allclose(plain.rows(ids, ids)["latent_image"], whole["latent_image"].numpy())
    again = next(Loader(stream, start=48, rows_per_step=8, micro_rows=8, prefetch=0))[0]  # another epoch
    assert not torch.equal(again["latent_image"], whole["latent_image"])


def test_an_encoder_of_a_run(run: Any, tmp_path: Path, repository: Path) -> None:
    other = ingot.build(
        ingot.load_recipe(repository / "recipes/vision/vit_tiny.yaml", ["stages.0.budget=1 steps", "name=vit"], tiny=True),
        runs=tmp_path / "runs",
    )
    other.train()
    width = other.section.model.width
    one = type(run.section.stages[0].annotate.knobs["encoders"]["image"])(width=width, start=str(tmp_path / "runs" / "vit"))
    model = frozen(run, one, "image")
    wanted = dict(other.model.named_parameters())
    assert all(torch.equal(value, wanted[name]) and not value.requires_grad for name, value in model.named_parameters())
    with pytest.raises(UserError, match="gives vectors of 32, not of 33"):
        one.width += 1
        frozen(run, one, "image")


def test_an_encoder_from_nowhere_is_refused(repository: Path) -> None:
    with pytest.raises(UserError, match="comes from nowhere"):
        resolve_run(
            load(repository / "recipes/image_text/fusemix_emoji.yaml", ["stages.0.annotate.encoders.image.encoder=null"], tiny=True)
        )
