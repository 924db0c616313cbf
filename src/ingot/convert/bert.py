"""BERT with its masked-language-model head; pooler and next-sentence head are left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import Family, Held, Section, per_block, refuse, same

ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length. Dropout is left at 0: a choice of training, not of the weights."""
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise UserError(f"a bert model with hidden_act={activation!r} cannot be read; known are {', '.join(ACTIVATIONS)}")
    refuse(
        "bert",
        position_embedding_type=(config.get("position_embedding_type") or "absolute", "absolute"),
        is_decoder=(config.get("is_decoder", False), False),
        add_cross_attention=(config.get("add_cross_attention", False), False),
    )
    if activation != "gelu":
        raise UserError(f"a bert model with hidden_act={activation!r} has it in its head too, where only 'gelu' can be read")
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
        "objective": {"name": "masked_lm", "transform": norm, "tied": config.get("tie_word_embeddings", True), "bias": True},
    }, sequence


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    encoder, embedding = section["encoder"], section["embedding"]
    return {
        "model_type": "bert",
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
        "tie_word_embeddings": section["objective"]["tied"],
    }


def names(section: Section) -> list[Held]:
    """Their norms follow each layer, as in our ``post`` block."""
    theirs, ours, both = "bert.encoder.layer.{i}", "encoder.blocks.{i}", ("weight", "bias")
    rules = same("bert.embeddings.word_embeddings", "embedding", "weight")
    rules += same("bert.embeddings.position_embeddings", "embedding.position", "weight")
    rules += same("bert.embeddings.token_type_embeddings", "embedding.segment", "weight")
    rules += same("bert.embeddings.LayerNorm", "embedding.norm", *both)
    for name in ("query", "key", "value"):
        rules += same(f"{theirs}.attention.self.{name}", f"{ours}.mixer.{name}", *both)
    rules += same(f"{theirs}.attention.output.dense", f"{ours}.mixer.output", *both)
    rules += same(f"{theirs}.attention.output.LayerNorm", f"{ours}.mixer_norm", *both)
    rules += same(f"{theirs}.intermediate.dense", f"{ours}.feedforward.up", *both)
    rules += same(f"{theirs}.output.dense", f"{ours}.feedforward.down", *both)
    rules += same(f"{theirs}.output.LayerNorm", f"{ours}.feedforward_norm", *both)
    rules += same("cls.predictions.transform.dense", "objective.transform.linear", *both)
    rules += same("cls.predictions.transform.LayerNorm", "objective.transform.norm", *both)
    rules += [Held("cls.predictions.bias", ("objective.bias",))]
    if not section["objective"]["tied"]:
        rules += same("cls.predictions.decoder", "objective.head", "weight")
    return per_block(section, rules)


FAMILY = Family(
    "bert", ("bert",), "BertForMaskedLM", "bert.", read, write, names,
    ignored=(r"^bert\.pooler\.", r"^cls\.seq_relationship\.", r"\.position_ids$"),
    twins={"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.bias": "cls.predictions.bias"},
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)  # fmt: skip
