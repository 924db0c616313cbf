"""BERT with its masked-language-model head; pooler and next-sentence head are left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._bert_like import names_common, read_common, write_common
from ._mapping import GELUS, Family, Held, Section, same


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length."""
    activation = config.get("hidden_act", "gelu")
    if activation not in GELUS:
        raise UserError(f"a bert model with hidden_act={activation!r} cannot be read; known are {', '.join(GELUS)}")
    section, sequence = read_common("bert", config)
    if activation != "gelu":
        raise UserError(f"a bert model with hidden_act={activation!r} has it in its head too, where only 'gelu' can be read")
    objective = {
        "name": "masked_lm",
        "transform": section["encoder"]["norm"],
        "tied": config.get("tie_word_embeddings", True),
        "bias": True,
    }
    return section | {"objective": objective}, sequence


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    return {"model_type": "bert"} | write_common(section, sequence, vocabulary) | {"tie_word_embeddings": section["objective"]["tied"]}


def names(section: Section) -> list[Held]:
    """What is common, and the head over the vocabulary."""
    rules = names_common(section, "bert")
    rules += same("cls.predictions.transform.dense", "objective.transform.linear", "weight", "bias")
    rules += same("cls.predictions.transform.LayerNorm", "objective.transform.norm", "weight", "bias")
    rules += [Held("cls.predictions.bias", ("objective.bias",))]
    if section["objective"]["tied"]:
        return rules
    # Untied, theirs adds the head's own bias and leaves the other be; a folder may hold the other alone.
    rules.append(Held("cls.predictions.decoder.bias", ("objective.bias",), optional=True))
    return rules + same("cls.predictions.decoder", "objective.head", "weight")


FAMILY = Family(
    "bert",
    ("bert",),
    "BertForMaskedLM",
    "bert.",
    read,
    write,
    names,
    ignored=(r"^bert\.pooler\.", r"^cls\.seq_relationship\.", r"\.position_ids$"),
    twins={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    typed=True,
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)
