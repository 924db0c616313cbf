"""What Llama and its relatives share: rotary positions, RMS norms before each layer, gated feed-forwards, names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import Held, Section, leaves, per_block, same


def rotary(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Their rotary settings, in the older form (rope_theta, rope_scaling) or the newer (rope_parameters), as our knobs."""
    settings = dict(config.get("rope_parameters") or {}) or dict(config.get("rope_scaling") or {})
    kind = settings.get("rope_type", settings.get("type", "default"))
    theta = float(settings.get("rope_theta", config.get("rope_theta", 10000.0)))
    if settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) not in (None, 1.0):
        raise UserError(f"a {family} model that turns only part of each head (partial_rotary_factor) cannot be read")
    if kind == "default":
        return {"name": "rotary", "theta": theta}
    if kind != "llama3":
        raise UserError(f"a {family} model with rotary scaling {kind!r} cannot be read; only 'default' and 'llama3' can")
    return {
        "name": "rotary",
        "theta": theta,
        "scaling": float(settings["factor"]),
        "low": float(settings["low_freq_factor"]),
        "high": float(settings["high_freq_factor"]),
        "original": int(settings["original_max_position_embeddings"]),
    }


def rope_config(position: dict[str, Any]) -> dict[str, Any]:
    """Both forms, for old and new readers."""
    if position["scaling"] is None:
        return {
            "rope_theta": position["theta"],
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": position["theta"]},
        }
    scaling = {
        "rope_type": "llama3",
        "factor": position["scaling"],
        "low_freq_factor": position["low"],
        "high_freq_factor": position["high"],
        "original_max_position_embeddings": position["original"],
    }
    return {"rope_theta": position["theta"], "rope_scaling": scaling, "rope_parameters": scaling | {"rope_theta": position["theta"]}}


def read_common(family: str, config: Mapping[str, Any], mixer: dict[str, Any], feedforward_bias: bool = False) -> tuple[Section, int]:
    """The section but for what the family adds to the mixer."""
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UserError(f"a {family} model with hidden_act={config['hidden_act']!r} cannot be read; only 'silu' can")
    heads = config["num_attention_heads"]
    shared = {
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
    }
    return {
        "width": config["hidden_size"],
        "embedding": {"name": "token"},
        "encoder": {
            "name": "transformer",
            "depth": config["num_hidden_layers"],
            "mixer": {"name": "attention", "position": rotary(family, config)} | shared | mixer,
            "feedforward": {"name": "swiglu", "hidden": config["intermediate_size"], "bias": feedforward_bias},
            "norm": {"name": "rms", "eps": config.get("rms_norm_eps", 1e-6)},
        },
        "objective": {"name": "causal_lm", "tied": config.get("tie_word_embeddings", False)},
    }, config.get("max_position_embeddings", 2048)


def write_common(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """The fields all relatives have."""
    encoder, mixer = section["encoder"], section["encoder"]["mixer"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": section["width"],
        "intermediate_size": encoder["feedforward"]["hidden"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": mixer["heads"],
        "num_key_value_heads": mixer["kv_heads"],
        "head_dim": mixer["head_dim"],
        "hidden_act": "silu",
        "max_position_embeddings": sequence,
        "rms_norm_eps": encoder["norm"]["eps"],
        "tie_word_embeddings": section["objective"]["tied"],
        "attention_dropout": 0.0,
        **rope_config(mixer["position"]),
    }


def names(section: Section) -> list[Held]:
    """Names of tensors, biases and head norms where the section has them."""
    theirs, ours = "model.layers.{i}", "encoder.blocks.{i}"
    mixer, feedforward = section["encoder"]["mixer"], section["encoder"]["feedforward"]
    rules = [Held("model.embed_tokens.weight", ("embedding.weight",))]
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        rules += same(f"{theirs}.self_attn.{letter}_proj", f"{ours}.mixer.{name}", *leaves(mixer["bias"]))
        if mixer["qk_norm"] is not None and letter != "v":
            rules += same(f"{theirs}.self_attn.{letter}_norm", f"{ours}.mixer.{name}_norm", "weight")
    rules += same(f"{theirs}.self_attn.o_proj", f"{ours}.mixer.output", *leaves(mixer["output_bias"]))
    for name in ("gate", "up", "down"):
        rules += same(f"{theirs}.mlp.{name}_proj", f"{ours}.feedforward.{name}", *leaves(feedforward["bias"]))
    rules += same(f"{theirs}.input_layernorm", f"{ours}.mixer_norm", "weight")
    rules += same(f"{theirs}.post_attention_layernorm", f"{ours}.feedforward_norm", "weight")
    rules += same("model.norm", "encoder.norm", "weight")
    if not section["objective"]["tied"]:
        rules += same("lm_head", "objective.head", "weight")
    return per_block(section, rules)


IGNORED = (r"rotary_emb\.inv_freq$",)
TWINS = {"lm_head.weight": "model.embed_tokens.weight"}
