"""What families with an image side share: how a pre-norm stack of blocks reads and is written, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import GELUS, Held, Section, activation_of, leaves, per_block, refuse, same

ACTIVATIONS = GELUS | {"quick_gelu": "quick"}
BOTH = ("weight", "bias")


def stack(family: str, *, depth: int, heads: int, hidden: int, activation: str, eps: float, bias: bool = True) -> Section:
    """An encoder's or decoder's section."""
    if activation not in ACTIVATIONS:
        raise UserError(f"a {family} model with hidden_act={activation!r} cannot be read; known are {', '.join(ACTIVATIONS)}")
    mixer = {"name": "attention", "heads": heads, "position": None, "bias": bias, "output_bias": True}
    feedforward = {"name": "gelu", "hidden": hidden, "bias": True, "approximate": ACTIVATIONS[activation]}
    return {
        "name": "transformer",
        "depth": depth,
        "mixer": mixer,
        "feedforward": feedforward,
        "norm": {"name": "layer", "eps": eps},
        "block": "pre",
    }


def activation(encoder: Section) -> str:
    """Their name of a stack's activation."""
    return activation_of(encoder, {"gelu_pytorch_tanh": "tanh"} | ACTIVATIONS)


def tower(family: str, config: Mapping[str, Any], **defaults: Any) -> Section:
    """The stack of a text_config or vision_config."""
    found = defaults | dict(config)
    return stack(
        family,
        depth=found["num_hidden_layers"],
        heads=found["num_attention_heads"],
        hidden=found["intermediate_size"],
        activation=found["hidden_act"],
        eps=found["layer_norm_eps"],
    )


def sizes(width: int, encoder: Section) -> dict[str, Any]:
    """What a text_config or vision_config says about a stack."""
    return {
        "hidden_size": width,
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["mixer"]["heads"],
        "intermediate_size": encoder["feedforward"]["hidden"],
        "hidden_act": activation(encoder),
        "layer_norm_eps": encoder["norm"]["eps"],
        "attention_dropout": 0.0,
    }


def patches(family: str, config: Mapping[str, Any], default: tuple[int, int]) -> Section:
    """The embedding of images, with learned positions."""
    size, patch = config.get("image_size", default[0]), config.get("patch_size", default[1])
    for name, value in (("image_size", size), ("patch_size", patch)):
        refuse(family, **{name: (value, int(value) if isinstance(value, int) else 0)})
    return {"name": "patch", "patch": patch, "image": size, "channels": config.get("num_channels", 3), "position": "learned"}


def convolution(theirs: str, width: int, embedding: Section) -> Held:
    """Their convolution over patches."""
    return Held(theirs, ("embedding.project.weight",), shape=(width, embedding["channels"], embedding["patch"], embedding["patch"]))


def image_processor(section: Section) -> dict[str, Any]:
    """preprocessor_config.json: how pixels are brought to what the embedding reads, which config.json does not say."""
    embedding = section["embedding"]
    side, channels = embedding["image"] or 224, embedding["channels"] or 3
    levels = {
        name: (value if isinstance(value, list) else [value]) * (1 if isinstance(value, list) and len(value) > 1 else channels)
        for name, value in (("image_mean", embedding["mean"]), ("image_std", embedding["std"]))
    }
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **levels,
    }


def normalized(section: Section, processor: Mapping[str, Any]) -> Section:
    """The section whose embedding brings bytes to what preprocessor_config.json says; what it leaves open is the family's own."""
    if not processor.get("do_normalize", True):
        levels: dict[str, Any] = {"image_mean": [0.0], "image_std": [1.0]}
    else:
        levels = {name: processor[name] for name in ("image_mean", "image_std") if processor.get(name) is not None}
    scale = 255 * float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 255.0
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale  # ours divides by 255 first
    found = {
        name.removeprefix("image_"): [float(item) / scale for item in (value if isinstance(value, list) else [value])]
        for name, value in levels.items()
    }
    return section | {"embedding": section["embedding"] | found}


def vit_config(section: Section, hidden_act: str) -> dict[str, Any]:
    """What ViT's config.json and its relatives' say about images and encoder."""
    encoder, embedding = section["encoder"], section["embedding"]
    return {
        "hidden_size": section["width"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["mixer"]["heads"],
        "intermediate_size": encoder["feedforward"]["hidden"],
        "hidden_act": hidden_act,
        "layer_norm_eps": encoder["norm"]["eps"],
        "image_size": embedding["image"] or 224,
        "patch_size": embedding["patch"],
        "num_channels": embedding["channels"] or 3,
        "qkv_bias": encoder["mixer"]["bias"],
        "hidden_dropout_prob": encoder["dropout"],
        "attention_probs_dropout_prob": 0.0,
    }


def vit_names(section: Section, model: str = "vit") -> list[Held]:
    """ViT's own tensors: it projects patches by a convolution, and keeps a dimension for rows in front of class token and positions.
    model: what their names begin with."""
    width, embedding, theirs = section["width"], section["embedding"], f"{model}.embeddings"
    rules = [
        Held(f"{theirs}.position_embeddings", ("embedding.position.weight",), shape=(1, embedding["position"]["size"], width)),
        convolution(f"{theirs}.patch_embeddings.projection.weight", width, embedding),
    ]
    if embedding["class_token"]:
        rules.append(Held(f"{theirs}.cls_token", ("embedding.first.weight",), shape=(1, 1, width)))
    rules += same(f"{theirs}.patch_embeddings.projection", "embedding.project", "bias") + same(f"{model}.layernorm", "encoder.norm", *BOTH)
    return per_block(section, rules + vit_blocks(f"{model}.encoder.layer", "encoder.blocks", section["encoder"]["mixer"]["bias"]))


def vit_blocks(theirs: str, ours: str, bias: bool) -> list[Held]:
    """ViT's names of a stack's blocks, ``{i}`` left open."""
    theirs, ours = f"{theirs}.{{i}}", f"{ours}.{{i}}"
    rules = [
        held
        for name in ("query", "key", "value")
        for held in same(f"{theirs}.attention.attention.{name}", f"{ours}.mixer.{name}", *leaves(bias))
    ]
    for name, own in (
        ("attention.output.dense", "mixer.output"),
        ("layernorm_before", "mixer_norm"),
        ("layernorm_after", "feedforward_norm"),
        ("intermediate.dense", "feedforward.up"),
        ("output.dense", "feedforward.down"),
    ):
        rules += same(f"{theirs}.{name}", f"{ours}.{own}", *BOTH)
    return rules


def blocks(theirs: str, ours: str, *, bias: bool = True) -> list[Held]:
    """CLIP's and SigLIP's names of a stack's blocks, ``{i}`` left open."""
    rules = []
    for name, own in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        rules += same(f"{theirs}.{{i}}.self_attn.{name}", f"{ours}.{{i}}.mixer.{own}", *leaves(bias))
    rules += same(f"{theirs}.{{i}}.self_attn.out_proj", f"{ours}.{{i}}.mixer.output", *BOTH)
    for name, own in (
        ("layer_norm1", "mixer_norm"),
        ("layer_norm2", "feedforward_norm"),
        ("mlp.fc1", "feedforward.up"),
        ("mlp.fc2", "feedforward.down"),
    ):
        rules += same(f"{theirs}.{{i}}.{name}", f"{ours}.{{i}}.{own}", *BOTH)
    return rules
