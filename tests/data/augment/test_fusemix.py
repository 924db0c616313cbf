"""FuseMix: one share and one partner for all modalities, so that a blend of pairs is a pair of blends."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.core.resolve import spec

DRAW = np.random.default_rng(0)
ONE = {"latent_image": DRAW.normal(size=6).astype(np.float32), "latent_text": DRAW.normal(size=4).astype(np.float32), "label": np.int64(1)}
OTHER = {
    "latent_image": DRAW.normal(size=6).astype(np.float32),
    "latent_text": DRAW.normal(size=4).astype(np.float32),
    "label": np.int64(2),
}


def share_of(row: dict[str, np.ndarray], key: str) -> float:
    step = ONE[key] - OTHER[key]
    return float((row[key] - OTHER[key]) @ step / (step @ step))


def test_both_modalities_share_the_coefficient() -> None:
    augment, draw = spec("data.augment", "fusemix").build(), np.random.default_rng(1)
    for _ in range(50):
        row = augment.mix(ONE, OTHER, draw)
        image, text = share_of(row, "latent_image"), share_of(row, "latent_text")
        assert 0 <= image <= 1 and image == pytest.approx(text, abs=1e-5) and row["label"] == 1
        np.testing.assert_allclose(row["latent_image"], image * ONE["latent_image"] + (1 - image) * OTHER["latent_image"], atol=1e-5)


def test_linear_towers_that_agree_on_pairs_agree_on_blends() -> None:
    """What the method rests on: where the sides are one linear map of a common meaning, a blended pair is as true a pair."""
    A, B = DRAW.normal(size=(5, 6)), DRAW.normal(size=(5, 4))
    draw, augment = np.random.default_rng(2), spec("data.augment", "fusemix", alpha=0.3).build()
    meaning = DRAW.normal(size=(2, 5))
    pairs = [{"latent_image": np.linalg.pinv(A) @ m, "latent_text": np.linalg.lstsq(B, m, rcond=None)[0]} for m in meaning]
    row = augment.mix(pairs[0], pairs[1], draw)
    gap = [A @ one["latent_image"] - B @ one["latent_text"] for one in (*pairs, row)]
    share = float((row["latent_image"] - pairs[1]["latent_image"])[0] / (pairs[0]["latent_image"] - pairs[1]["latent_image"])[0])
    np.testing.assert_allclose(gap[2], share * gap[0] + (1 - share) * gap[1], atol=1e-6)


def test_shares_are_beta_distributed() -> None:
    augment, draw = spec("data.augment", "fusemix", alpha=0.8).build(), np.random.default_rng(3)
    shares = np.array([share_of(augment.mix(ONE, OTHER, draw), "latent_image") for _ in range(2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03) and shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)
