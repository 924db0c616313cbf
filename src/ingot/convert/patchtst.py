"""PatchTST that forecasts, with layer norms; batch norms read whole batches and have no place here.

Fixed sines of theirs are read as learned positions, which they are the values of. A configuration that says PatchTSTForPretraining is
read as masked pre-training, which ``patchtst_pretraining`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import Family, Held, Section, leaves, per_block, refuse, same

ONLY = {
    "channel_attention": False,
    "norm_type": "layernorm",
    "share_embedding": True,
    "use_cls_token": False,
    "share_projection": True,
    "activation_function": "gelu",
    "mask_value": 0,
}
PRETRAINING = "PatchTSTForPretraining"
SCALINGS = {"std": "std", None: None}


def read(config: Mapping[str, Any]) -> tuple[Section, int]:
    """Recipe model section and number of positions of a channel."""
    defaults = {"norm_type": "batchnorm"} if "model_type" in config else {}  # what a configuration means that does not say it
    for name, only in ONLY.items():
        refuse("patchtst", **{name: (config.get(name, defaults.get(name, only)), only)})
    refuse("patchtst", loss=(config.get("loss", "mse"), "mse"))
    if config.get("scaling", "std") not in SCALINGS:
        raise UserError(f"a patchtst model with scaling={config.get('scaling')!r} cannot be read; known are 'std' and None")
    bias = config.get("bias", True)
    patch, length = config.get("patch_length", 1), config.get("context_length", 32)
    embedding = {
        "name": "series_patch",
        "patch": patch,
        "stride": config.get("patch_stride", 1),
        "length": length,
        "channels": config.get("num_input_channels", 1),
        "normalize": SCALINGS[config.get("scaling", "std")],
        "position": "learned",
    }
    encoder = {
        "name": "transformer",
        "depth": config.get("num_hidden_layers", 3),
        "mixer": {"name": "attention", "heads": config.get("num_attention_heads", 4), "position": None, "bias": True, "output_bias": True},
        "feedforward": {"name": "gelu", "hidden": config.get("ffn_dim", 512), "bias": bias, "approximate": "none"},
        "norm": {"name": "layer", "eps": config.get("norm_eps", 1e-5)},
        "block": "pre" if config.get("pre_norm", True) else "post",
        "final_norm": False,
    }
    width = config.get("d_model", config.get("hidden_size", 128))
    return {"width": width, "embedding": embedding, "encoder": encoder, "objective": _objective(config)}, (length - patch) // embedding[
        "stride"
    ] + 1


def _objective(config: Mapping[str, Any]) -> Section:
    if PRETRAINING in (config.get("architectures") or []):
        refuse("patchtst", mask_type=(config.get("mask_type", "random"), "random"))
        return {
            "name": "masked_series",
            "rate": config.get("random_mask_ratio", 0.5),
            "hide": "zeros",
            "consistent": bool(config.get("channel_consistent_masking", False)),
        }
    pooling = config.get("pooling_type", "mean")
    if pooling not in ("mean", None):
        raise UserError(f"a patchtst model with pooling_type={pooling!r} cannot be read; known are 'mean' and None")
    return {"name": "forecasting", "horizon": config.get("prediction_length", 24), "pooling": pooling}


def write(section: Section, sequence: int, vocabulary: int) -> dict[str, Any]:
    """config.json's fields."""
    encoder, embedding, objective = section["encoder"], section["embedding"], section["objective"]
    config = {
        "model_type": "patchtst",
        "d_model": section["width"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["mixer"]["heads"],
        "ffn_dim": encoder["feedforward"]["hidden"],
        "bias": encoder["feedforward"]["bias"],
        "norm_eps": encoder["norm"]["eps"],
        "context_length": embedding["length"],
        "num_input_channels": embedding["channels"],
        "patch_length": embedding["patch"],
        "patch_stride": embedding["stride"],
        "scaling": embedding["normalize"],
        "pre_norm": encoder["block"]["name"] == "pre",
        "positional_encoding_type": "random",
        "loss": "mse",
    } | ONLY
    if objective["name"] == "masked_series":
        kind = PRETRAINING
        config |= {"do_mask_input": True, "random_mask_ratio": objective["rate"], "channel_consistent_masking": objective["consistent"]}
    else:
        kind = "PatchTSTForPrediction"
        config |= {"prediction_length": objective["horizon"], "pooling_type": objective["pooling"]}
    return config | {"architectures": [kind]}


def names(section: Section) -> list[Held]:
    """Of the norms theirs numbers 1 and 3; 2 belongs to attention over channels."""
    theirs, ours, both = "model.encoder.layers.{i}", "encoder.blocks.{i}", ("weight", "bias")
    rules = same("model.encoder.embedder.input_embedding", "embedding.project", *both)
    rules.append(Held("model.encoder.positional_encoder.position_enc", ("embedding.position.weight",)))
    for name, own in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output")):
        rules += same(f"{theirs}.self_attn.{name}", f"{ours}.mixer.{own}", *both)
    rules += same(f"{theirs}.norm_sublayer1", f"{ours}.mixer_norm", *both)
    rules += same(f"{theirs}.norm_sublayer3", f"{ours}.feedforward_norm", *both)
    rules += same(f"{theirs}.ff.0", f"{ours}.feedforward.up", *leaves(section["encoder"]["feedforward"]["bias"]))
    rules += same(f"{theirs}.ff.3", f"{ours}.feedforward.down", *leaves(section["encoder"]["feedforward"]["bias"]))
    if section["objective"]["name"] == "masked_series":
        rules += same("head.linear", "objective.head", *both)
    else:
        embedding, objective = section["embedding"], section["objective"]
        patches = 1 if objective["pooling"] else (embedding["length"] - embedding["patch"]) // embedding["stride"] + 1
        rules.append(Held("head.projection.weight", ("objective.head.weight",), shape=(objective["horizon"], patches * section["width"])))
        rules += same("head.projection", "objective.head", "bias")
    return per_block(section, rules)


FAMILY = Family(
    "patchtst",
    ("patchtst",),
    "PatchTSTForPrediction",
    "model.",
    read,
    write,
    names,
    heads=("head.",),
    varies=("encoder.block",),
    bare="PatchTSTModel",
    outputs="forecast",
)
