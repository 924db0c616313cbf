"""ELECTRA's discriminator; a generator trained with it is training's alone and stays behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._mapping import Family, Held, Section, per_block, refuse, same


def stem(config: Mapping[str, Any], name: str) -> tuple[Section, int]:
    """What both of ELECTRA's models have in common: width, embedding and encoder, and the sequence length."""
    refuse(
        name,
        hidden_act=(config.get("hidden_act", "gelu"), "gelu"),
        position_embedding_type=(config.get("position_embedding_type") or "absolute", "absolute"),
        is_decoder=(config.get("is_decoder", False), False),
        add_cross_attention=(config.get("add_cross_attention", False), False),
        embedding_size=(config.get("embedding_size", 128), config["hidden_size"]),
    )
    norm = {"name": "layer", "eps": config.get("layer_norm_eps", 1e-12)}
    sequence = config.get("max_position_embeddings", 512)
    return {
        "width": config["hidden_size"],
        "embedding": {"name": "token", "position": {"name": "learned", "size": sequence}, "norm": norm, "types": config.get("type_vocab_size", 2)},
        "encoder": {
            "name": "transformer",
            "depth": config["num_hidden_layers"],
            "mixer": {"name": "attention", "heads": config["num_attention_heads"], "position": None, "bias": True},
            "feedforward": {"name": "gelu", "hidden": config["intermediate_size"], "bias": True},
            "norm": norm,
            "block": "post",
        },
    }, sequence


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length; the generator is left out, so that a table of counts stands in for it."""
    section, sequence = stem(config, "electra")
    return section | {"objective": {"name": "replaced_token"}}, sequence


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    encoder, embedding = section["encoder"], section["embedding"]
    return {
        "model_type": "electra",
        "vocab_size": vocabulary,
        "embedding_size": section["width"],
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


def stem_names(section: Section) -> list[Held]:
    """Embedding and blocks: named as BERT's."""
    theirs, ours, both = "electra.encoder.layer.{i}", "encoder.blocks.{i}", ("weight", "bias")
    rules = same("electra.embeddings.word_embeddings", "embedding", "weight")
    rules += same("electra.embeddings.position_embeddings", "embedding.position", "weight")
    rules += same("electra.embeddings.token_type_embeddings", "embedding.segment", "weight")
    rules += same("electra.embeddings.LayerNorm", "embedding.norm", *both)
    for name in ("query", "key", "value"):
        rules += same(f"{theirs}.attention.self.{name}", f"{ours}.mixer.{name}", *both)
    rules += same(f"{theirs}.attention.output.dense", f"{ours}.mixer.output", *both)
    rules += same(f"{theirs}.attention.output.LayerNorm", f"{ours}.mixer_norm", *both)
    rules += same(f"{theirs}.intermediate.dense", f"{ours}.feedforward.up", *both)
    rules += same(f"{theirs}.output.dense", f"{ours}.feedforward.down", *both)
    rules += same(f"{theirs}.output.LayerNorm", f"{ours}.feedforward_norm", *both)
    return per_block(section, rules)


def names(section: Section) -> list[Held]:
    """The stem, and the head that finds replaced tokens."""
    head = same("discriminator_predictions.dense", "objective.dense", "weight", "bias")
    return stem_names(section) + head + same("discriminator_predictions.dense_prediction", "objective.head", "weight", "bias")


FAMILY = Family(
    "electra", ("electra",), "ElectraForPreTraining", "electra.", read, write, names, ignored=(r"\.position_ids$",),
    heads=("discriminator_predictions.", "generator_"), auto="AutoModelForPreTraining",
    varies=("objective.generator", "objective.norm"), dropped=(r"^objective\.(generator|generator_head|enter)\.",),
)  # fmt: skip
