"""Qwen 3: Llama with norms on each head's query and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._llama_like import IGNORED, TWINS, names, read_common, write_common
from ._mapping import Family, Section
from .qwen2 import window_config, window_of


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length. Their default head_dim is 128, whatever the width."""
    config = {"head_dim": 128} | dict(config)
    norm = {"name": "rms", "eps": config.get("rms_norm_eps", 1e-6)}
    return read_common(
        "qwen3", config, {"bias": config.get("attention_bias", False), "qk_norm": norm, "window": window_of("qwen3", config)}
    )


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    config = write_common(section, sequence, vocabulary) | {"model_type": "qwen3", "attention_bias": section["encoder"]["mixer"]["bias"]}
    return config | window_config(section)


FAMILY = Family(
    "qwen3", ("qwen3",), "Qwen3ForCausalLM", "model.", read, write, names, ignored=IGNORED, twins=TWINS, alike=("fill_in_the_middle",)
)
