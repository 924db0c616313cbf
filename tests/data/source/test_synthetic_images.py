"""Drawn pictures: a function of (seed, number), with classes that can be told apart under every seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.core.resolve import spec


def source(**knobs: Any) -> Any:
    return spec("data.source", "synthetic_images", **({"count": 64} | knobs)).build()


def all_rows(built: Any) -> dict[str, np.ndarray]:
    ids = np.arange(len(built))
    return built.rows(ids, ids)


def test_rows_belong_to_seed_and_number() -> None:
    one, again, other = all_rows(source()), all_rows(source()), all_rows(source(seed=1))
    assert np.array_equal(one["image"], again["image"]) and not np.array_equal(one["image"], other["image"])
    assert one["image"].shape == (64, 3, 16, 16) and np.bincount(one["label"]).tolist() == [16] * 4
    assert np.array_equal(source().rows(np.array([7]), np.array([500]))["image"][0], one["image"][7])


def test_another_seed_has_the_same_classes() -> None:
    """The nearest class mean of one seed's pictures tells the classes of the other's."""
    one, other = all_rows(source()), all_rows(source(seed=1))
    means = np.stack([one["image"][one["label"] == kind].mean(axis=(0, 2, 3)) for kind in range(4)])
    guess = ((other["image"].mean(axis=(2, 3))[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (guess == other["label"]).mean() > 0.5


def test_sentences_and_values_beside() -> None:
    built = source(captions=True, values=True)
    assert len(built.captions()) == 64 and built.captions()[1] != built.captions()[0] == built.captions()[4]
    found = all_rows(built)
    np.testing.assert_allclose(found["values"], found["image"].mean(axis=(2, 3)) / 255, atol=1e-2)
