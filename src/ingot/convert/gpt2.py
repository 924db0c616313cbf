"""GPT-2: learned positions, layer norms before each layer, one fused and transposed projection for query, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import GELUS, Family, Held, Section, per_block, refuse, same


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length. Dropout is left at 0: a choice of training, not of the weights."""
    activation = config.get("activation_function", "gelu_new")
    if activation not in GELUS:
        raise UserError(f"a gpt2 model with activation_function={activation!r} cannot be read; known are {', '.join(GELUS)}")
    refuse(
        "gpt2",
        scale_attn_weights=(config.get("scale_attn_weights", True), True),
        scale_attn_by_inverse_layer_idx=(config.get("scale_attn_by_inverse_layer_idx", False), False),
        add_cross_attention=(config.get("add_cross_attention", False), False),
    )
    norm = {"name": "layer", "eps": config.get("layer_norm_epsilon", 1e-5)}
    width, sequence = config["n_embd"], config.get("n_positions", 1024)
    return {
        "width": width,
        "embedding": {"name": "token", "position": {"name": "learned", "size": sequence}},
        "encoder": {
            "name": "transformer",
            "depth": config["n_layer"],
            "mixer": {"name": "attention", "heads": config["n_head"], "position": None, "bias": True},
            "feedforward": {
                "name": "gelu",
                "hidden": config.get("n_inner") or 4 * width,
                "bias": True,
                "approximate": GELUS[activation],
            },
            "norm": norm,
        },
        "objective": {"name": "causal_lm", "tied": config.get("tie_word_embeddings", True)},
    }, sequence


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    encoder, feedforward = section["encoder"], section["encoder"]["feedforward"]
    return {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_positions": (section["embedding"]["position"] or {}).get("size", sequence),
        "n_embd": section["width"],
        "n_layer": encoder["depth"],
        "n_head": encoder["mixer"]["heads"],
        "n_inner": feedforward["hidden"],
        "activation_function": "gelu_new" if feedforward.get("approximate") == "tanh" else "gelu",
        "layer_norm_epsilon": encoder["norm"]["eps"],
        "resid_pdrop": encoder["dropout"],
        "embd_pdrop": section["embedding"]["dropout"],
        "attn_pdrop": 0.0,
        "tie_word_embeddings": section["objective"]["tied"],
    }


def names(section: Section) -> list[Held]:
    """Their Conv1D holds (in, out)."""
    theirs, ours = "transformer.h.{i}", "encoder.blocks.{i}"
    rules = [Held("transformer.wte.weight", ("embedding.weight",)), Held("transformer.wpe.weight", ("embedding.position.weight",))]
    qkv = ("query", "key", "value")
    for their_name, our_names in (
        ("attn.c_attn", [f"mixer.{name}" for name in qkv]),
        ("attn.c_proj", ["mixer.output"]),
        ("mlp.c_fc", ["feedforward.up"]),
        ("mlp.c_proj", ["feedforward.down"]),
    ):
        for leaf in ("weight", "bias"):
            rules.append(Held(f"{theirs}.{their_name}.{leaf}", tuple(f"{ours}.{name}.{leaf}" for name in our_names), leaf == "weight"))
    rules += same(f"{theirs}.ln_1", f"{ours}.mixer_norm", "weight", "bias") + same(
        f"{theirs}.ln_2", f"{ours}.feedforward_norm", "weight", "bias"
    )
    rules += same("transformer.ln_f", "encoder.norm", "weight", "bias")
    if not section["objective"]["tied"]:
        rules += same("lm_head", "objective.head", "weight")
    return per_block(section, rules)


FAMILY = Family(
    "gpt2",
    ("gpt2",),
    "GPT2LMHeadModel",
    "transformer.",
    read,
    write,
    names,
    ignored=(r"\.attn\.(bias|masked_bias)$",),
    twins={"lm_head.weight": "transformer.wte.weight"},
    alike=("fill_in_the_middle",),
)
