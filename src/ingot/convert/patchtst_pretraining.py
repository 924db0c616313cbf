"""PatchTST with masked patches; its configuration is read as ``patchtst`` is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._mapping import Family, Section
from .patchtst import PRETRAINING, names, write
from .patchtst import read as either


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and number of positions of a channel."""
    return either({**config, "architectures": [PRETRAINING]})


FAMILY = Family(
    "patchtst_pretraining",
    (),
    PRETRAINING,
    "model.",
    read,
    write,
    names,
    heads=("head.",),
    varies=("encoder.block",),
    outputs="model",
)
