"""SigLIP: an image side pooled by attention and a text side, every pair judged by itself.

Theirs lets a text attend to its padding and reads its last position, so texts are compared as long as the family's own, 64 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._image import BOTH, activation, blocks, convolution, image_processor, patches, sizes, tower
from ._mapping import Family, Held, Section, refuse, repeated, same

SIDE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and length of a text."""
    text, image = config.get("text_config") or {}, config.get("vision_config") or {}
    width, other = image.get("hidden_size", 768), text.get("hidden_size", 768)
    refuse(
        "siglip", vision_use_head=(image.get("vision_use_head", True), True), projection_size=(text.get("projection_size", other), width)
    )
    refuse(
        "siglip",
        hidden_act=(image.get("hidden_act", SIDE["hidden_act"]), "gelu_pytorch_tanh"),
        layer_norm_eps=(image.get("layer_norm_eps", 1e-6), 1e-6),
    )
    own = SIDE | dict(image)
    return {
        "width": width,
        "embedding": patches("siglip", image, (224, 16)),
        "encoder": tower("siglip", image, **SIDE),
        "towers": {
            "text": {"width": other, "embedding": {"name": "token", "position": "learned"}, "encoder": tower("siglip", text, **SIDE)}
        },
        "objective": {
            "name": "siglip",
            "pooling": "attention",
            "heads": own["num_attention_heads"],
            "hidden": own["intermediate_size"],
            "tower_pooling": "last",
        },
    }, text.get("max_position_embeddings", 64)


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    text, embedding = section["towers"]["text"], section["embedding"]
    if activation(section["encoder"]) != SIDE["hidden_act"]:  # the head that pools an image has the same one
        raise UserError(f"encoder.feedforward.approximate={section['encoder']['feedforward']['approximate']!r}")
    image = {
        "image_size": embedding["image"] or 224,
        "patch_size": embedding["patch"],
        "num_channels": embedding["channels"] or 3,
        "vision_use_head": True,
    }
    length = text["embedding"]["position"]["size"] or sequence
    return {
        "model_type": "siglip",
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "projection_size": section["width"],
        }
        | sizes(text["width"], text["encoder"]),
        "vision_config": {"model_type": "siglip_vision_model"} | image | sizes(section["width"], section["encoder"]),
    }


def names(section: Section) -> list[Held]:
    """Both sides, and the head that pools an image, whose three projections theirs holds as one."""
    text, image, ours, head, pool = "text_model", "vision_model", "towers.text", "vision_model.head", "objective.main.attention"
    rules = [
        Held(f"{text}.embeddings.token_embedding.weight", (f"{ours}.embedding.weight",)),
        Held(f"{text}.embeddings.position_embedding.weight", (f"{ours}.embedding.position.weight",)),
        Held(f"{image}.embeddings.position_embedding.weight", ("embedding.position.weight",)),
        convolution(f"{image}.embeddings.patch_embedding.weight", section["width"], section["embedding"]),
        Held(f"{head}.probe", (f"{pool}.weight",), shape=(1, 1, section["width"])),
        Held("logit_scale", ("objective.scale.weight",)),
        Held("logit_bias", ("objective.shift.weight",)),
    ]
    rules += [
        Held(f"{head}.attention.in_proj_{leaf}", tuple(f"{pool}.{name}.{leaf}" for name in ("query", "key", "value"))) for leaf in BOTH
    ]
    rules += same(f"{image}.embeddings.patch_embedding", "embedding.project", "bias") + same(
        f"{image}.post_layernorm", "encoder.norm", *BOTH
    )
    for name, own in (("attention.out_proj", "output"), ("layernorm", "norm"), ("mlp.fc1", "up"), ("mlp.fc2", "down")):
        rules += same(f"{head}.{name}", f"{pool}.{own}", *BOTH)
    rules += same(f"{text}.head", "objective.other.project", *BOTH) + same(f"{text}.final_layer_norm", f"{ours}.encoder.norm", *BOTH)
    rules += repeated(blocks(f"{text}.encoder.layers", f"{ours}.encoder.blocks"), section["towers"]["text"]["encoder"]["depth"])
    return rules + repeated(blocks(f"{image}.encoder.layers", "encoder.blocks"), section["encoder"]["depth"])


FAMILY = Family(
    "siglip",
    ("siglip",),
    "SiglipModel",
    "text_model.",
    read,
    write,
    names,
    ignored=(r"position_ids$",),
    outputs="pairs",
    preprocessor=image_processor,
)
