"""What families with an image side share: how a pre-norm stack of blocks reads and is written, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import Held, Section, leaves, refuse, same

ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "quick_gelu": "quick"}
BOTH = ("weight", "bias")


def stack(family: str, *, depth: int, heads: int, hidden: int, activation: str, eps: float, bias: bool = True) -> Section:
    """An encoder's or decoder's section."""
    if activation not in ACTIVATIONS:
        raise UserError(f"a {family} model with hidden_act={activation!r} cannot be read; known are {', '.join(ACTIVATIONS)}")
    mixer = {"name": "attention", "heads": heads, "position": None, "bias": bias, "output_bias": True}
    feedforward = {"name": "gelu", "hidden": hidden, "bias": True, "approximate": ACTIVATIONS[activation]}
    return {"name": "transformer", "depth": depth, "mixer": mixer, "feedforward": feedforward, "norm": {"name": "layer", "eps": eps}, "block": "pre"}


def activation(encoder: Section) -> str:
    """Their name of a stack's activation."""
    return {"none": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}[encoder["feedforward"]["approximate"]]


def tower(family: str, config: Mapping[str, Any], **defaults: Any) -> Section:
    """The stack of a text_config or vision_config."""
    found = defaults | dict(config)
    return stack(family, depth=found["num_hidden_layers"], heads=found["num_attention_heads"], hidden=found["intermediate_size"], activation=found["hidden_act"], eps=found["layer_norm_eps"])


def sizes(width: int, encoder: Section) -> dict[str, Any]:
    """What a text_config or vision_config says about a stack."""
    return {"hidden_size": width, "num_hidden_layers": encoder["depth"], "num_attention_heads": encoder["mixer"]["heads"],
            "intermediate_size": encoder["feedforward"]["hidden"], "hidden_act": activation(encoder), "layer_norm_eps": encoder["norm"]["eps"],
            "attention_dropout": 0.0}  # fmt: skip


def patches(family: str, config: Mapping[str, Any], default: tuple[int, int]) -> Section:
    """The embedding of images, with learned positions."""
    size, patch = config.get("image_size", default[0]), config.get("patch_size", default[1])
    refuse(family, image_size=(size, int(size) if isinstance(size, int) else 0))
    return {"name": "patch", "patch": patch, "image": size, "channels": config.get("num_channels", 3), "position": "learned"}


def convolution(theirs: str, width: int, embedding: Section) -> Held:
    """Their convolution over patches."""
    return Held(theirs, ("embedding.project.weight",), shape=(width, embedding["channels"], embedding["patch"], embedding["patch"]))


def blocks(theirs: str, ours: str, *, bias: bool = True) -> list[Held]:
    """CLIP's and SigLIP's names of a stack's blocks, ``{i}`` left open."""
    rules = []
    for name, own in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        rules += same(f"{theirs}.{{i}}.self_attn.{name}", f"{ours}.{{i}}.mixer.{own}", *leaves(bias))
    rules += same(f"{theirs}.{{i}}.self_attn.out_proj", f"{ours}.{{i}}.mixer.output", *BOTH)
    for name, own in (("layer_norm1", "mixer_norm"), ("layer_norm2", "feedforward_norm"), ("mlp.fc1", "feedforward.up"), ("mlp.fc2", "feedforward.down")):
        rules += same(f"{theirs}.{{i}}.{name}", f"{ours}.{{i}}.{own}", *BOTH)
    return rules
