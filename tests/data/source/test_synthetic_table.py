"""Drawn tables: classes tell numbers and categories, blanks are marked."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec


def test_the_class_is_in_the_columns() -> None:
    found = spec("data.source", "synthetic_table", count=300, missing=0.0, noise=0.0, values=True).build()
    given = found.rows(np.arange(300), np.arange(300))
    for label in range(3):
        here = given["label"] == label
        assert (
            here.sum() == 100 and not np.ptp(given["numbers"][here], axis=0).any() and not np.ptp(given["categories"][here], axis=0).any()
        )
    assert np.array_equal(given["values"], given["numbers"][:, :2]) and not given["numbers_missing"].any()


def test_blanks() -> None:
    found = spec("data.source", "synthetic_table", count=400, missing=0.25).build()
    given = found.rows(np.arange(400), np.arange(400))
    assert not given["numbers"][given["numbers_missing"]].any()
    assert 0.2 < given["numbers_missing"].mean() < 0.3 and 0.2 < (given["categories"] == 0).mean() < 0.3
