"""IJepa: ViT without a class token, alone or with a classifier of the mean of all positions. What I-JEPA, DINO and SimCLR train here has
this shape. A bare model reads as one whose classifier is left to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import vit
from ._image import BOTH, image_processor, vit_names
from ._mapping import Family, Held, Section


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and number of positions. Pixels are brought to mean 0.5, deviation 0.5 where the folder does not say."""
    section, positions = vit.read(config)
    section["embedding"]["class_token"] = False
    section["objective"]["pooling"] = "mean"
    return section, positions - 1


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    return vit.write(section, sequence, vocabulary) | {"model_type": "ijepa"}


def names(section: Section) -> list[Held]:
    """The encoder, and a classifier that may be missing."""
    return vit_names(section, "ijepa") + [Held(f"classifier.{leaf}", (f"objective.head.{leaf}",), optional=True) for leaf in BOTH]


FAMILY = Family(
    "ijepa",
    ("ijepa",),
    "IJepaForImageClassification",
    "ijepa.",
    read,
    write,
    names,
    heads=("classifier.",),
    bare="IJepaModel",
    preprocessor=image_processor,
)
