"""ViT with its image classifier; a bare ViT reads as one whose classifier is left to be trained. The pooler is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import Family, Held, Section, leaves, per_block, refuse, same

ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and number of positions. Pixels are taken to be brought to mean 0.5, deviation 0.5, as the family's own are."""
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise UserError(f"a vit model with hidden_act={activation!r} cannot be read; known are {', '.join(ACTIVATIONS)}")
    size, patch = config.get("image_size", 224), config.get("patch_size", 16)
    for name, value in (("image_size", size), ("patch_size", patch)):
        refuse("vit", **{name: (isinstance(value, int), True)})
    classes = len(config.get("id2label") or {}) or config.get("num_labels", 2)
    norm = {"name": "layer", "eps": config.get("layer_norm_eps", 1e-12)}
    embedding = {"name": "patch", "patch": patch, "image": size, "channels": config.get("num_channels", 3), "class_token": True, "position": "learned"}
    mixer = {"name": "attention", "heads": config["num_attention_heads"], "position": None, "bias": config.get("qkv_bias", True), "output_bias": True}
    feedforward = {"name": "gelu", "hidden": config["intermediate_size"], "bias": True, "approximate": ACTIVATIONS[activation]}
    return {
        "width": config["hidden_size"],
        "embedding": embedding,
        "encoder": {"name": "transformer", "depth": config["num_hidden_layers"], "mixer": mixer, "feedforward": feedforward, "norm": norm, "block": "pre"},
        "objective": {"name": "classification", "classes": classes, "pooling": "first"},
    }, (size // patch) ** 2 + 1


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    encoder, embedding = section["encoder"], section["embedding"]
    classes = section["objective"]["classes"] or 2
    return {
        "model_type": "vit",
        "hidden_size": section["width"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["mixer"]["heads"],
        "intermediate_size": encoder["feedforward"]["hidden"],
        "hidden_act": {kind: name for name, kind in reversed(ACTIVATIONS.items())}[encoder["feedforward"]["approximate"]],
        "layer_norm_eps": encoder["norm"]["eps"],
        "image_size": embedding["image"] or 224,
        "patch_size": embedding["patch"],
        "num_channels": embedding["channels"] or 3,
        "qkv_bias": encoder["mixer"]["bias"],
        "hidden_dropout_prob": encoder["dropout"],
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(number): f"LABEL_{number}" for number in range(classes)},
        "label2id": {f"LABEL_{number}": number for number in range(classes)},
    }


def names(section: Section) -> list[Held]:
    """Theirs project patches by a convolution, and keep a dimension for rows in front of class token and positions."""
    theirs, ours, both = "vit.encoder.layer.{i}", "encoder.blocks.{i}", ("weight", "bias")
    width, embedding = section["width"], section["embedding"]
    patch = embedding["patch"]
    rules = [
        Held("vit.embeddings.cls_token", ("embedding.first.weight",), shape=(1, 1, width)),
        Held("vit.embeddings.position_embeddings", ("embedding.position.weight",), shape=(1, embedding["position"]["size"], width)),
        Held("vit.embeddings.patch_embeddings.projection.weight", ("embedding.project.weight",), shape=(width, embedding["channels"], patch, patch)),
    ]
    rules += same("vit.embeddings.patch_embeddings.projection", "embedding.project", "bias")
    for name in ("query", "key", "value"):
        rules += same(f"{theirs}.attention.attention.{name}", f"{ours}.mixer.{name}", *leaves(section["encoder"]["mixer"]["bias"]))
    rules += same(f"{theirs}.attention.output.dense", f"{ours}.mixer.output", *both)
    rules += same(f"{theirs}.layernorm_before", f"{ours}.mixer_norm", *both)
    rules += same(f"{theirs}.layernorm_after", f"{ours}.feedforward_norm", *both)
    rules += same(f"{theirs}.intermediate.dense", f"{ours}.feedforward.up", *both)
    rules += same(f"{theirs}.output.dense", f"{ours}.feedforward.down", *both)
    rules += same("vit.layernorm", "encoder.norm", *both)
    rules += [Held(f"classifier.{leaf}", (f"objective.head.{leaf}",), optional=True) for leaf in both]
    return per_block(section, rules)


FAMILY = Family("vit", ("vit",), "ViTForImageClassification", "vit.", read, write, names, ignored=(r"^vit\.pooler\.",), heads=("classifier.",),
                auto="AutoModelForImageClassification")  # fmt: skip
