"""A folder of arrays, one ``.npy`` file each, that is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...core.atomic import whole_folder


def keep_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write every array under its name; where another process was faster, its folder stays. Raises RunError when the disk does not take it."""
    with whole_folder(folder) as aside:
        for name, values in arrays.items():
            np.save(aside / f"{name}.npy", values, allow_pickle=False)
