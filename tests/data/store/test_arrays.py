"""A folder of arrays is whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import RunError
from ingot.data.store.arrays import keep_arrays


def test_arrays_come_back(tmp_path: Path) -> None:
    given = {"a": np.arange(5), "b.starts": np.zeros((2, 3), np.float32)}
    keep_arrays(tmp_path / "deep" / "place", given)
    found = {path.name.removesuffix(".npy"): np.load(path) for path in (tmp_path / "deep" / "place").iterdir()}
    assert found.keys() == given.keys() and all(np.array_equal(found[name], value) for name, value in given.items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["place"]


def test_a_disk_that_fills_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = np.save

    def save(path: Path, values: np.ndarray, **more: Any) -> None:
        if path.name == "b.npy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, values, **more)

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(RunError) as caught:
        keep_arrays(tmp_path / "place", {"a": np.arange(3), "b": np.arange(3)})
    assert str(caught.value) == f"{tmp_path / 'place'} cannot be written: No space left on device" and not list(tmp_path.iterdir())
