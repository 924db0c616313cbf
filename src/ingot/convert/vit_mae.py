"""ViTMAE with its decoder. Its fixed positions are read as learned ones that hold the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._image import BOTH, activation, convolution, patches, stack
from ._mapping import Family, Held, Section, leaves, per_block, repeated, same


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and number of positions."""
    embedding = patches("vit_mae", config, (224, 16)) | {"class_token": True}
    shared = {"activation": config.get("hidden_act", "gelu"), "eps": config.get("layer_norm_eps", 1e-12), "bias": config.get("qkv_bias", True)}
    decoder = stack("vit_mae", depth=config.get("decoder_num_hidden_layers", 8), heads=config.get("decoder_num_attention_heads", 16), hidden=config.get("decoder_intermediate_size", 2048), **shared)
    return {
        "width": config["hidden_size"],
        "embedding": embedding,
        "encoder": stack("vit_mae", depth=config["num_hidden_layers"], heads=config["num_attention_heads"], hidden=config["intermediate_size"], **shared),
        "decoder": decoder | {"inner": config.get("decoder_hidden_size", 512), "cross": None},
        "objective": {"name": "masked_patches", "rate": config.get("mask_ratio", 0.75), "norm": config.get("norm_pix_loss", False), "position": "learned"},
    }, (embedding["image"] // embedding["patch"]) ** 2 + 1


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    encoder, decoder, embedding = section["encoder"], section["decoder"], section["embedding"]
    return {
        "model_type": "vit_mae", "hidden_size": section["width"], "num_hidden_layers": encoder["depth"], "num_attention_heads": encoder["mixer"]["heads"],
        "intermediate_size": encoder["feedforward"]["hidden"], "hidden_act": activation(encoder), "layer_norm_eps": encoder["norm"]["eps"],
        "image_size": embedding["image"] or 224, "patch_size": embedding["patch"], "num_channels": embedding["channels"] or 3, "qkv_bias": encoder["mixer"]["bias"],
        "hidden_dropout_prob": encoder["dropout"], "attention_probs_dropout_prob": 0.0, "decoder_hidden_size": decoder["inner"] or section["width"],
        "decoder_num_hidden_layers": decoder["depth"], "decoder_num_attention_heads": decoder["mixer"]["heads"],
        "decoder_intermediate_size": decoder["feedforward"]["hidden"], "mask_ratio": section["objective"]["rate"], "norm_pix_loss": section["objective"]["norm"],
    }  # fmt: skip


def names(section: Section) -> list[Held]:
    """Theirs draws a patch value by value with its channels together, ours channel by channel."""
    width, inner, embedding = section["width"], section["decoder"]["inner"], section["embedding"]
    positions, patch, channels = embedding["position"]["size"], embedding["patch"], embedding["channels"]
    rules = [
        Held("vit.embeddings.cls_token", ("embedding.first.weight",), shape=(1, 1, width)),
        Held("vit.embeddings.position_embeddings", ("embedding.position.weight",), shape=(1, positions, width)),
        convolution("vit.embeddings.patch_embeddings.projection.weight", width, embedding),
        Held("decoder.mask_token", ("objective.fill.hidden.weight",), shape=(1, 1, inner)),
        Held("decoder.decoder_pos_embed", ("objective.fill.position.weight",), shape=(1, positions, inner)),
    ]
    rules += [Held(f"decoder.decoder_pred.{leaf}", (f"objective.head.{leaf}",), arranged=((patch, patch, channels), (2, 0, 1))) for leaf in BOTH]
    rules += same("vit.embeddings.patch_embeddings.projection", "embedding.project", "bias") + same("vit.layernorm", "encoder.norm", *BOTH)
    rules += same("decoder.decoder_embed", "decoder.enter", *BOTH) + same("decoder.decoder_norm", "decoder.norm", *BOTH)
    bias = section["encoder"]["mixer"]["bias"]
    return per_block(section, _block("vit.encoder.layer", "encoder.blocks", bias) + rules) + repeated(_block("decoder.decoder_layers", "decoder.blocks", bias), section["decoder"]["depth"])


def _block(theirs: str, ours: str, bias: bool) -> list[Held]:
    theirs, ours = f"{theirs}.{{i}}", f"{ours}.{{i}}"
    rules = [held for name in ("query", "key", "value") for held in same(f"{theirs}.attention.attention.{name}", f"{ours}.mixer.{name}", *leaves(bias))]
    for name, own in (("attention.output.dense", "mixer.output"), ("layernorm_before", "mixer_norm"), ("layernorm_after", "feedforward_norm"),
                      ("intermediate.dense", "feedforward.up"), ("output.dense", "feedforward.down")):  # fmt: skip
        rules += same(f"{theirs}.{name}", f"{ours}.{own}", *BOTH)
    return rules


FAMILY = Family("vit_mae", ("vit_mae",), "ViTMAEForPreTraining", "vit.", read, write, names, heads=("decoder.",),
                renamed=((r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),), auto="AutoModelForPreTraining")  # fmt: skip
