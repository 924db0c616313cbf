"""Wav2Vec2 with what pre-training has beside it: quantizer, projections and the vector at hidden positions.

The running average of a codebook's use, which our loss of diversity needs, is not theirs to keep; it starts anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ._mapping import Family, Section
from ._sound import PRETRAINING, RENAMED, VARIES, names, read, write


def either(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and number of positions."""
    return read({**config, "architectures": [PRETRAINING]}, "wav2vec2")


FAMILY = Family(
    "wav2vec2_pretraining",
    ("wav2vec2",),
    PRETRAINING,
    "wav2vec2.",
    either,
    lambda section, sequence, vocabulary: write(section, vocabulary, "wav2vec2"),
    partial(names, prefix="wav2vec2."),
    renamed=RENAMED,
    heads=("quantizer.", "project_"),
    varies=VARIES,
    outputs="wav2vec2",
)
