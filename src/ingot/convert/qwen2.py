"""Qwen 2 and 2.5: Llama with a bias on query, key and value alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._llama_like import IGNORED, TWINS, names, read_common, write_common
from ._mapping import Family, Section


def window_of(family: str, config: Mapping[str, Any]) -> int | None:
    """The sliding window, where every layer has it; UserError where only some have."""
    kinds = set(config.get("layer_types") or [])
    if not config.get("use_sliding_window", False) or config.get("sliding_window") is None or kinds == {"full_attention"}:
        return None
    if kinds == {"sliding_attention"} or (not kinds and config.get("max_window_layers", 28) <= 0):
        return int(config["sliding_window"])
    raise UserError(f"a {family} model in which only some layers have a sliding window cannot be read")


def window_config(section: Section) -> dict[str, Any]:
    """The fields that say the same of every layer."""
    window, depth = section["encoder"]["mixer"]["window"], section["encoder"]["depth"]
    if window is None:
        return {"use_sliding_window": False, "sliding_window": None, "max_window_layers": depth, "layer_types": ["full_attention"] * depth}
    return {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0, "layer_types": ["sliding_attention"] * depth}


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length."""
    return read_common("qwen2", config, {"bias": True, "output_bias": False, "window": window_of("qwen2", config)})


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    return write_common(section, sequence, vocabulary) | {"model_type": "qwen2"} | window_config(section)


FAMILY = Family(
    "qwen2", ("qwen2",), "Qwen2ForCausalLM", "model.", read, write, names, ignored=IGNORED, twins=TWINS, alike=("fill_in_the_middle",)
)
