"""RandAugment: its operations one by one, none at strength nil, all of them drawn."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.augment._pixels import OPERATIONS, autocontrast, equalize, rotate, shift, smooth

IMAGE = np.random.default_rng(0).integers(0, 200, (16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_keeps_the_form(name: str) -> None:
    for channels in (3, 1):
        found = OPERATIONS[name](IMAGE[:, :, :channels], 0.7, -1.0)
        assert found.shape == (16, 16, channels) and found.dtype == np.uint8
    if name not in ("identity",):
        assert not np.array_equal(OPERATIONS[name](IMAGE, 0.7, -1.0), IMAGE)
    if name not in ("autocontrast", "equalize"):
        assert np.array_equal(OPERATIONS[name](IMAGE, 0.0, 1.0), IMAGE)


def test_geometry() -> None:
    assert np.array_equal(rotate(IMAGE, 90), IMAGE.transpose(1, 0, 2)[:, ::-1]) or np.array_equal(
        rotate(IMAGE, 90), IMAGE.transpose(1, 0, 2)[::-1]
    )
    moved = shift(IMAGE, 0.25, 0)
    assert np.array_equal(moved[:, :12], IMAGE[:, 4:]) and (moved[:, 12:] == 128).all()


def test_equalized_levels_are_spread() -> None:
    narrow = (100 + IMAGE // 20).astype(np.uint8)
    assert equalize(narrow).std() > 5 * narrow.std()


@pytest.mark.parametrize("channels", [1, 3])
def test_levels_of_each_channel_go_through_their_own_table(channels: int) -> None:
    """Every pixel by the definition: the share of darker pixels among all but the lightest; the place between darkest and lightest."""
    image = np.random.default_rng(1).integers(40, 180, (7, 5, channels), dtype=np.uint8)
    image[..., 0] = 77  # a level alone stays
    spread, stretched = equalize(image), autocontrast(image)
    assert (spread[..., 0] == 77).all() and (stretched[..., 0] == 77).all()
    for at in range(1, channels):
        levels = image[..., at].astype(int)
        low, high, below = levels.min(), levels.max(), (levels < levels.max()).sum()
        for y, x in np.ndindex(7, 5):
            assert spread[y, x, at] == int((levels < levels[y, x]).sum() * 255 / below + 0.5)
            assert abs(stretched[y, x, at] - (levels[y, x] - low) * 255 / (high - low)) <= 0.501


def test_draws_all_operations() -> None:
    augment, draw = spec("data.augment", "rand_augment", number=1, magnitude=9, deviation=0.5).build(), np.random.default_rng(0)
    distinct = {augment(IMAGE, draw).tobytes() for _ in range(300)}
    assert len(distinct) > 100 and IMAGE.tobytes() in distinct


def test_sharpness_starts_from_pillow_s_smoothing() -> None:
    image, filters = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageFilter")
    assert np.array_equal(smooth(IMAGE), np.asarray(image.fromarray(IMAGE).filter(filters.SMOOTH)))
    assert np.array_equal(smooth(IMAGE[:2, :2]), IMAGE[:2, :2])


def test_strengths_that_cannot_be_are_refused() -> None:
    for knobs in ({"magnitude": 10.5}, {"magnitude": 0}, {"deviation": -1.0}):
        with pytest.raises(UserError, match=next(iter(knobs))):
            spec("data.augment", "rand_augment", **knobs)
