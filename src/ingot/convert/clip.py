"""CLIP: an image side and a text side, compared by softmax. A text speaks through its last token, which is the tokenizer's end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._image import BOTH, blocks, convolution, image_processor, patches, sizes, tower
from ._mapping import Family, Held, Section, repeated, same

TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
IMAGE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and length of a text. Pixels are brought to the family's own means and deviations where the folder does not say others."""
    text, image = config.get("text_config") or {}, config.get("vision_config") or {}
    encoder, other = tower("clip", image, **IMAGE), tower("clip", text, **TEXT)
    embedding = patches("clip", image, (224, 32)) | {"class_token": True, "bias": False, "norm": encoder["norm"]}
    return {
        "width": image.get("hidden_size", IMAGE["hidden_size"]),
        "embedding": embedding | {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
        if embedding["channels"] == 3
        else embedding,
        "encoder": encoder,
        "towers": {
            "text": {
                "width": text.get("hidden_size", TEXT["hidden_size"]),
                "embedding": {"name": "token", "position": "learned"},
                "encoder": other,
            }
        },
        "objective": {
            "name": "clip",
            "outputs": config.get("projection_dim", 512),
            "pooling": "first",
            "tower_pooling": "last",
            "tower_causal": True,
        },
    }, text.get("max_position_embeddings", 77)


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    text, outputs = section["towers"]["text"], section["objective"]["outputs"]
    image = {
        "image_size": section["embedding"]["image"] or 224,
        "patch_size": section["embedding"]["patch"],
        "num_channels": section["embedding"]["channels"] or 3,
    }
    length = text["embedding"]["position"]["size"] or sequence
    return {
        "model_type": "clip",
        "projection_dim": outputs,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "eos_token_id": 2,
            "projection_dim": outputs,
        }
        | sizes(text["width"], text["encoder"]),
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": outputs}
        | image
        | sizes(section["width"], section["encoder"]),
    }


def names(section: Section) -> list[Held]:
    """Both sides, the projections, and the scale, which theirs holds as a plain number."""
    text, image, ours = "text_model", "vision_model", "towers.text"
    rules = [
        Held(f"{text}.embeddings.token_embedding.weight", (f"{ours}.embedding.weight",)),
        Held(f"{text}.embeddings.position_embedding.weight", (f"{ours}.embedding.position.weight",)),
        Held(f"{image}.embeddings.class_embedding", ("embedding.first.weight",)),
        Held(f"{image}.embeddings.position_embedding.weight", ("embedding.position.weight",)),
        convolution(f"{image}.embeddings.patch_embedding.weight", section["width"], section["embedding"]),
        Held("visual_projection.weight", ("objective.main.project.weight",)),
        Held("text_projection.weight", ("objective.other.project.weight",)),
        Held("logit_scale", ("objective.scale.weight",), shape=()),
    ]
    rules += same(f"{image}.pre_layrnorm", "embedding.norm", *BOTH) + same(f"{image}.post_layernorm", "encoder.norm", *BOTH)
    rules += same(f"{text}.final_layer_norm", f"{ours}.encoder.norm", *BOTH)
    rules += repeated(blocks(f"{text}.encoder.layers", f"{ours}.encoder.blocks"), section["towers"]["text"]["encoder"]["depth"])
    return rules + repeated(blocks(f"{image}.encoder.layers", "encoder.blocks"), section["encoder"]["depth"])


FAMILY = Family(
    "clip",
    ("clip",),
    "CLIPModel",
    "text_model.",
    read,
    write,
    names,
    ignored=(r"position_ids$",),
    outputs="pairs",
    preprocessor=image_processor,
)
