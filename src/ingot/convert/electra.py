"""ELECTRA's discriminator; a generator trained with it is training's alone and stays behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._bert_like import names_common, read_common, write_common
from ._mapping import Family, Held, Section, refuse, same


def stem(config: Mapping[str, Any], name: str) -> tuple[Section, int]:
    """What both of ELECTRA's models have in common: width, embedding and encoder, and the sequence length."""
    refuse(name, hidden_act=(config.get("hidden_act", "gelu"), "gelu"))
    section, sequence = read_common(name, config)
    inner = config.get("embedding_size", 128)
    section["embedding"]["inner"] = None if inner == config["hidden_size"] else inner
    return section, sequence


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length; the generator is left out, so that a table of counts stands in for it."""
    section, sequence = stem(config, "electra")
    return section | {"objective": {"name": "replaced_token"}}, sequence


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    return {"model_type": "electra", "embedding_size": section["embedding"]["inner"] or section["width"]} | write_common(
        section, sequence, vocabulary
    )


def names(section: Section) -> list[Held]:
    """What is common, and the head that finds replaced tokens."""
    head = same("discriminator_predictions.dense", "objective.dense", "weight", "bias")
    return names_common(section, "electra") + head + same("discriminator_predictions.dense_prediction", "objective.head", "weight", "bias")


FAMILY = Family(
    "electra",
    ("electra",),
    "ElectraForPreTraining",
    "electra.",
    read,
    write,
    names,
    ignored=(r"\.position_ids$",),
    heads=("discriminator_predictions.", "generator_"),
    typed=True,
    varies=("objective.generator", "objective.norm"),
    dropped=(r"^objective\.(generator|generator_head|enter)\.",),
)
