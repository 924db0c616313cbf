"""Llama 1 to 3, and Mistral, which adds a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._llama_like import IGNORED, TWINS, names, read_common, write_common
from ._mapping import Family, Section


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length. pretraining_tp, a way to compute the same, is ignored."""
    mixer = {"bias": config.get("attention_bias", False)}
    if config.get("model_type") == "mistral":
        mixer["window"] = config.get("sliding_window")
    return read_common("llama", config, mixer, feedforward_bias=config.get("mlp_bias", False))


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields; a window makes it a Mistral."""
    mixer = section["encoder"]["mixer"]
    config = write_common(section, sequence, vocabulary)
    if mixer["window"] is not None:
        return config | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": mixer["window"]}
    return config | {"model_type": "llama", "attention_bias": mixer["bias"], "mlp_bias": section["encoder"]["feedforward"]["bias"]}


FAMILY = Family(
    "llama",
    ("llama", "mistral"),
    "LlamaForCausalLM",
    "model.",
    read,
    write,
    names,
    ignored=IGNORED,
    twins=TWINS,
    alike=("fill_in_the_middle",),
)
