"""How long the rows of a source are: found from the headers of its files once, and kept by content.

cache/lengths/<hash of the source and of what its rows are cut to>.npy      (rows,) int64
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import RunError
from .source._fingerprint import digest
from .store.locks import lock


def known_lengths(source: Any, cache: Path) -> np.ndarray:
    """Of every row. One process of a machine finds them, the others wait. Raises RunError where they cannot be written."""
    final = cache / "lengths" / f"{digest('lengths', 1, source.identity, source.size, source.hop)}.npy"
    while not final.is_file():
        with lock(final) as mine:
            if mine and not final.is_file():
                _write(source.lengths(), final)
        if not mine:
            time.sleep(0.2)
    return np.asarray(np.load(final, allow_pickle=False))


def _write(lengths: np.ndarray, final: Path) -> None:
    aside = final.with_name(f"{final.stem}.aside-{os.getpid()}.npy")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        np.save(aside, lengths, allow_pickle=False)
        os.replace(aside, final)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RunError(f"{final}: cannot be written: {error.strerror or error}") from None
