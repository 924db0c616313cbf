"""ViT with its image classifier; a bare ViT reads as one whose classifier is left to be trained. The pooler is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._image import ACTIVATIONS, BOTH, image_processor, patches, stack, vit_config, vit_names
from ._mapping import Family, Held, Section, activation_of


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and number of positions. Pixels are brought to mean 0.5, deviation 0.5 where the folder does not say (``normalized``)."""
    embedding = patches("vit", config, (224, 16)) | {"class_token": True}
    classes = len(config.get("id2label") or {}) or config.get("num_labels", 2)
    encoder = stack(
        "vit",
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        activation=config.get("hidden_act", "gelu"),
        eps=config.get("layer_norm_eps", 1e-12),
        bias=config.get("qkv_bias", True),
    )
    return {
        "width": config["hidden_size"],
        "embedding": embedding,
        "encoder": encoder,
        "objective": {"name": "classification", "classes": classes, "pooling": "first"},
    }, (embedding["image"] // embedding["patch"]) ** 2 + 1


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    classes = range(section["objective"]["classes"] or 2)
    labels = {
        "id2label": {str(number): f"LABEL_{number}" for number in classes},
        "label2id": {f"LABEL_{number}": number for number in classes},
    }
    return {"model_type": "vit", **vit_config(section, activation_of(section["encoder"], ACTIVATIONS)), **labels}


def names(section: Section) -> list[Held]:
    """The encoder, and a classifier that may be missing."""
    return vit_names(section) + [Held(f"classifier.{leaf}", (f"objective.head.{leaf}",), optional=True) for leaf in BOTH]


FAMILY = Family(
    "vit",
    ("vit",),
    "ViTForImageClassification",
    "vit.",
    read,
    write,
    names,
    ignored=(r"^vit\.pooler\.",),
    heads=("classifier.",),
    bare="ViTModel",
    preprocessor=image_processor,
)
