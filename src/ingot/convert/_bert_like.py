"""What BERT and ELECTRA share: tokens with learned positions and types, norms after each layer, names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._mapping import Held, Section, per_block, refuse, same


def read_common(family: str, config: Mapping[str, Any]) -> tuple[Section, int]:
    """The section but for its objective, and the sequence length. Dropout is left at 0: a choice of training, not of the weights."""
    refuse(
        family,
        position_embedding_type=(config.get("position_embedding_type") or "absolute", "absolute"),
        is_decoder=(config.get("is_decoder", False), False),
        add_cross_attention=(config.get("add_cross_attention", False), False),
    )
    norm = {"name": "layer", "eps": config.get("layer_norm_eps", 1e-12)}
    sequence = config.get("max_position_embeddings", 512)
    return {
        "width": config["hidden_size"],
        "embedding": {
            "name": "token",
            "position": {"name": "learned", "size": sequence},
            "norm": norm,
            "types": config.get("type_vocab_size", 2),
        },
        "encoder": {
            "name": "transformer",
            "depth": config["num_hidden_layers"],
            "mixer": {"name": "attention", "heads": config["num_attention_heads"], "position": None, "bias": True},
            "feedforward": {"name": "gelu", "hidden": config["intermediate_size"], "bias": True},
            "norm": norm,
            "block": "post",
        },
    }, sequence


def write_common(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """The fields both have."""
    encoder, embedding = section["encoder"], section["embedding"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": section["width"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["mixer"]["heads"],
        "intermediate_size": encoder["feedforward"]["hidden"],
        "hidden_act": "gelu",
        "max_position_embeddings": (embedding["position"] or {}).get("size", sequence),
        "type_vocab_size": embedding["types"],
        "layer_norm_eps": encoder["norm"]["eps"],
        "hidden_dropout_prob": encoder["dropout"],
        "attention_probs_dropout_prob": 0.0,
    }


def names_common(section: Section, prefix: str) -> list[Held]:
    """Embedding and blocks. Their norms follow each layer, as in our ``post`` block."""
    theirs, ours, both = f"{prefix}.encoder.layer.{{i}}", "encoder.blocks.{i}", ("weight", "bias")
    rules = same(f"{prefix}.embeddings.word_embeddings", "embedding", "weight")
    rules += same(f"{prefix}.embeddings.position_embeddings", "embedding.position", "weight")
    rules += same(f"{prefix}.embeddings.token_type_embeddings", "embedding.segment", "weight")
    rules += same(f"{prefix}.embeddings.LayerNorm", "embedding.norm", *both)
    if section["embedding"]["inner"] is not None:
        rules += same(f"{prefix}.embeddings_project", "embedding.project", *both)
    for name in ("query", "key", "value"):
        rules += same(f"{theirs}.attention.self.{name}", f"{ours}.mixer.{name}", *both)
    rules += same(f"{theirs}.attention.output.dense", f"{ours}.mixer.output", *both)
    rules += same(f"{theirs}.attention.output.LayerNorm", f"{ours}.mixer_norm", *both)
    rules += same(f"{theirs}.intermediate.dense", f"{ours}.feedforward.up", *both)
    rules += same(f"{theirs}.output.dense", f"{ours}.feedforward.down", *both)
    rules += same(f"{theirs}.output.LayerNorm", f"{ours}.feedforward_norm", *both)
    return per_block(section, rules)
