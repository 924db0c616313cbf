"""T5, T5 1.1 and UL2: encoder and decoder with relative positions, RMS norms and no biases; feed-forwards of ReLU, gated GELU or gated
SiLU. UL2's denoisers are tasks made of the data, and score as span corruption does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import Family, Held, Section, repeated, same

FEEDFORWARDS: dict[str, Section] = {
    "relu": {"name": "relu"},
    "gated-gelu": {"name": "geglu", "approximate": "tanh"},
    "gated-gelu_new": {"name": "geglu", "approximate": "tanh"},
    "gated-silu": {"name": "swiglu"},
}


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and sequence length. Which ids are sentinels is the tokenizer's to say."""
    kind = config.get("feed_forward_proj", "relu")
    if kind not in FEEDFORWARDS:
        raise UserError(f"a t5 model with feed_forward_proj={kind!r} cannot be read; known are {', '.join(FEEDFORWARDS)}")
    width, heads = config.get("d_model", 512), config.get("num_heads", 8)
    position = {
        "name": "relative",
        "buckets": config.get("relative_attention_num_buckets", 32),
        "longest": config.get("relative_attention_max_distance", 128),
        "shared": True,
    }
    attention = {"name": "attention", "heads": heads, "head_dim": config.get("d_kv", 64), "scale": 1.0, "position": position, "bias": False}
    cross = {"name": "cross_attention", "heads": heads, "head_dim": config.get("d_kv", 64), "scale": 1.0, "bias": False}
    stack = {
        "name": "transformer",
        "mixer": attention,
        "feedforward": FEEDFORWARDS[kind] | {"hidden": config.get("d_ff", 2048), "bias": False},
        "norm": {"name": "rms", "eps": config.get("layer_norm_epsilon", 1e-6)},
        "block": "pre",
    }
    depth, tied = config.get("num_layers", 6), config.get("tie_word_embeddings", True)
    return {
        "width": width,
        "embedding": {"name": "token"},
        "encoder": stack | {"depth": depth},
        "decoder": stack | {"depth": config.get("num_decoder_layers") or depth, "cross": cross},
        "objective": {
            "name": "span_corruption",
            "tied": tied,
            "scaled": config.get("scale_decoder_outputs", tied),
            "start": config.get("decoder_start_token_id") or 0,
        },
    }, config.get("n_positions", 512)


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    encoder, objective = section["encoder"], section["objective"]
    mixer, position = encoder["mixer"], encoder["mixer"]["position"] or {}
    return {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": vocabulary,
        "d_model": section["width"],
        "d_kv": mixer["head_dim"],
        "d_ff": encoder["feedforward"]["hidden"],
        "num_layers": encoder["depth"],
        "num_decoder_layers": section["decoder"]["depth"],
        "num_heads": mixer["heads"],
        "relative_attention_num_buckets": position.get("buckets", 32),
        "relative_attention_max_distance": position.get("longest", 128),
        "feed_forward_proj": _kind(encoder["feedforward"]),
        "layer_norm_epsilon": encoder["norm"]["eps"],
        "dropout_rate": encoder["dropout"],
        "tie_word_embeddings": objective["tied"],
        "scale_decoder_outputs": objective["scaled"],
        "decoder_start_token_id": objective["start"] or 0,
        "n_positions": sequence,
    }


def _kind(feedforward: Section) -> str:
    """Their name of a feed-forward; UserError where there is none."""
    for kind, wanted in FEEDFORWARDS.items():
        if all(feedforward[knob] == value for knob, value in wanted.items() if knob in feedforward):
            return kind
    raise UserError(f"feedforward={feedforward['name']}")


def names(section: Section) -> list[Held]:
    """Each layer of theirs is a list: attention, attention to the encoder in a decoder, feed-forward."""
    rules = same("shared", "embedding", "weight") + _stack(section["encoder"], "encoder", ("mixer",))
    rules += _stack(section["decoder"], "decoder", ("mixer", "cross"))
    return rules if section["objective"]["tied"] else rules + same("lm_head", "objective.head", "weight")


def _stack(stack: Section, name: str, mixers: tuple[str, ...]) -> list[Held]:
    theirs, ours, gated = f"{name}.block.{{i}}.layer", f"{name}.blocks.{{i}}", stack["feedforward"]["name"] != "relu"
    rules = same(f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias", f"{name}.blocks.0.mixer.position", "weight")
    for number, mixer in enumerate(mixers):
        kind = {"mixer": "SelfAttention", "cross": "EncDecAttention"}[mixer]
        for short, long in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output")):
            rules += same(f"{theirs}.{number}.{kind}.{short}", f"{ours}.{mixer}.{long}", "weight")
        rules += same(f"{theirs}.{number}.layer_norm", f"{ours}.{mixer}_norm", "weight")
    last = f"{theirs}.{len(mixers)}"
    for short, long in (("wi_0", "gate"), ("wi_1", "up"), ("wo", "down")) if gated else (("wi", "up"), ("wo", "down")):
        rules += same(f"{last}.DenseReluDense.{short}", f"{ours}.feedforward.{long}", "weight")
    rules += same(f"{last}.layer_norm", f"{ours}.feedforward_norm", "weight")
    return repeated(rules, stack["depth"]) + same(f"{name}.final_layer_norm", f"{name}.norm", "weight")


FAMILY = Family(
    "t5",
    ("t5",),
    "T5ForConditionalGeneration",
    "",
    read,
    write,
    names,
    varies=("encoder.feedforward", "decoder.feedforward"),
    alike=("mixture_of_denoisers",),
    outputs="written",
    twins={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
)
