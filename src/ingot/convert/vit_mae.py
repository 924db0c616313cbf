"""ViTMAE with its decoder. Its fixed positions are read as learned ones that hold the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._image import BOTH, activation, image_processor, patches, stack, vit_blocks, vit_config, vit_names
from ._mapping import Family, Held, Section, repeated, same


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and number of positions."""
    embedding = patches("vit_mae", config, (224, 16)) | {"class_token": True}
    shared = {
        "activation": config.get("hidden_act", "gelu"),
        "eps": config.get("layer_norm_eps", 1e-12),
        "bias": config.get("qkv_bias", True),
    }
    decoder = stack(
        "vit_mae",
        depth=config.get("decoder_num_hidden_layers", 8),
        heads=config.get("decoder_num_attention_heads", 16),
        hidden=config.get("decoder_intermediate_size", 2048),
        **shared,
    )
    return {
        "width": config["hidden_size"],
        "embedding": embedding,
        "encoder": stack(
            "vit_mae", depth=config["num_hidden_layers"], heads=config["num_attention_heads"], hidden=config["intermediate_size"], **shared
        ),
        "decoder": decoder | {"inner": config.get("decoder_hidden_size", 512), "cross": None},
        "objective": {
            "name": "masked_patches",
            "rate": config.get("mask_ratio", 0.75),
            "norm": config.get("norm_pix_loss", False),
            "position": "learned",
        },
    }, (embedding["image"] // embedding["patch"]) ** 2 + 1


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    decoder = section["decoder"]
    return {
        "model_type": "vit_mae",
        **vit_config(section, activation(section["encoder"])),
        "decoder_hidden_size": decoder["inner"] or section["width"],
        "decoder_num_hidden_layers": decoder["depth"],
        "decoder_num_attention_heads": decoder["mixer"]["heads"],
        "decoder_intermediate_size": decoder["feedforward"]["hidden"],
        "mask_ratio": section["objective"]["rate"],
        "norm_pix_loss": section["objective"]["norm"],
    }


def names(section: Section) -> list[Held]:
    """Theirs draws a patch value by value with its channels together, ours channel by channel."""
    decoder, embedding, inner = section["decoder"], section["embedding"], section["decoder"]["inner"]
    positions, patch, channels = embedding["position"]["size"], embedding["patch"], embedding["channels"]
    rules = [
        Held("decoder.mask_token", ("objective.fill.hidden.weight",), shape=(1, 1, inner)),
        Held("decoder.decoder_pos_embed", ("objective.fill.position.weight",), shape=(1, positions, inner)),
    ]
    rules += [
        Held(f"decoder.decoder_pred.{leaf}", (f"objective.head.{leaf}",), arranged=((patch, patch, channels), (2, 0, 1))) for leaf in BOTH
    ]
    rules += same("decoder.decoder_embed", "decoder.enter", *BOTH) + same("decoder.decoder_norm", "decoder.norm", *BOTH)
    return (
        vit_names(section)
        + rules
        + repeated(vit_blocks("decoder.decoder_layers", "decoder.blocks", section["encoder"]["mixer"]["bias"]), decoder["depth"])
    )


FAMILY = Family(
    "vit_mae",
    ("vit_mae",),
    "ViTMAEForPreTraining",
    "vit.",
    read,
    write,
    names,
    heads=("decoder.",),
    outputs="patches",
    preprocessor=image_processor,
    renamed=((r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),),
)
