"""ELECTRA's generator by itself, a masked-language model whose head ends at the embedding's width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import electra
from ._bert_like import names_common
from ._mapping import Family, Held, Section, same


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length."""
    section, sequence = electra.stem(config, "electra_generator")
    objective = {
        "name": "masked_lm",
        "transform": section["encoder"]["norm"],
        "tied": config.get("tie_word_embeddings", True),
        "bias": True,
    }
    return section | {"objective": objective}, sequence


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    return electra.write(section, sequence, vocabulary) | {"tie_word_embeddings": section["objective"]["tied"]}


def names(section: Section) -> list[Held]:
    """What is common, and the head over the vocabulary."""
    rules = names_common(section, "electra") + same("generator_predictions.dense", "objective.transform.linear", "weight", "bias")
    rules += same("generator_predictions.LayerNorm", "objective.transform.norm", "weight", "bias")
    rules += [Held("generator_lm_head.bias", ("objective.bias",))]
    return rules if section["objective"]["tied"] else rules + same("generator_lm_head", "objective.head", "weight")


FAMILY = Family(
    "electra_generator",
    ("electra",),
    "ElectraForMaskedLM",
    "electra.",
    read,
    write,
    names,
    ignored=(r"\.position_ids$",),
    twins={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    heads=("discriminator_predictions.", "generator_"),
    typed=True,
)
