"""What wav2vec 2.0, HuBERT and data2vec-audio checkpoints share: stem, positional convolution, blocks, a CTC head or none.

A bare model reads as one with a CTC head that is left to be trained. What served pre-training alone (quantizer, projections) is read where
the configuration names wav2vec 2.0's class for it, and else left behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ._mapping import GELUS, Held, Section, activation_of, per_block, refuse, same

KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
BOTH = ("weight", "bias")
IGNORED = (
    r"^quantizer\.",
    r"^project_q\.",
    r"^project_hid\.",
    r"^label_embeddings",
    r"^final_proj\.",
    r"\.parametrizations\.weight\.original$",
)
PRETRAINING = "Wav2Vec2ForPreTraining"
VARIES = ("embedding.norm", "embedding.project_norm", "encoder.block")
RENAMED = (
    (r"pos_conv_embed\.conv\.weight_g$", "pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"pos_conv_embed\.conv\.weight_v$", "pos_conv_embed.conv.parametrizations.weight.original1"),
)


def read(config: Mapping[str, Any], family: str) -> tuple[Section, int]:
    """Recipe model section and number of positions; rows have any length, so that number is what a recipe's own data makes it."""
    activation = config.get("hidden_act", "gelu")
    if activation not in GELUS or config.get("feat_extract_activation", "gelu") != "gelu":
        raise UserError(
            f"a {family} model with hidden_act={activation!r}, feat_extract_activation={config.get('feat_extract_activation')!r} cannot be read"
        )
    refuse(
        family,
        add_adapter=(bool(config.get("add_adapter", False)), False),
        adapter_attn_dim=(config.get("adapter_attn_dim"), None),
        conv_pos_batch_norm=(bool(config.get("conv_pos_batch_norm", False)), False),
    )
    several = family == "data2vec_audio"
    channels = config.get("conv_dim", [512] * 7)
    refuse(family, conv_dim=(len(set(channels)), 1))
    norms = "all" if several or config.get("feat_extract_norm", "group") == "layer" else "first"
    stable = bool(config.get("do_stable_layer_norm", False)) and not several
    norm = {"name": "layer", "eps": config.get("layer_norm_eps", 1e-5)}
    embedding = {
        "name": "waveform",
        "channels": channels[0],
        "kernels": list(config.get("conv_kernel", KERNELS)),
        "strides": list(config.get("conv_stride", STRIDES)),
        "norms": norms,
        "bias": bool(config.get("conv_bias", False)),
        "project_norm": norm if config.get("feat_proj_layer_norm", True) else None,
        "norm": None if stable else norm,
        "neighbors": config.get("conv_pos_kernel_size", 19) if several else config.get("num_conv_pos_embeddings", 128),
        "groups": config.get("num_conv_pos_embedding_groups", 16),
        "layers": config.get("num_conv_pos_embeddings", 5) if several else 1,
    }
    mixer = {"name": "attention", "heads": config["num_attention_heads"], "position": None, "bias": True}
    feedforward = {"name": "gelu", "hidden": config["intermediate_size"], "bias": True, "approximate": GELUS[activation]}
    encoder = {
        "name": "transformer",
        "depth": config["num_hidden_layers"],
        "mixer": mixer,
        "feedforward": feedforward,
        "norm": norm,
        "block": "pre" if stable else "post",
    }
    return {
        "width": config["hidden_size"],
        "embedding": embedding,
        "encoder": encoder,
        "objective": _objective(config),
    }, 1024


def _objective(config: Mapping[str, Any]) -> Section:
    if PRETRAINING not in (config.get("architectures") or []):
        return {"name": "ctc", "blank": config.get("pad_token_id", 0)}
    return {
        "name": "wav2vec2",
        "share": config.get("mask_time_prob", 0.05),
        "span": config.get("mask_time_length", 10),
        "negatives": config.get("num_negatives", 100),
        "logit_temperature": config.get("contrastive_logits_temperature", 0.1),
        "groups": config.get("num_codevector_groups", 2),
        "entries": config.get("num_codevectors_per_group", 320),
        "code": config.get("codevector_dim", 256),
        "units": config.get("proj_codevector_dim", 256),
        "diversity": config.get("diversity_loss_weight", 0.1),
    }


def write(section: Section, vocabulary: int, family: str) -> dict[str, Any]:
    """config.json's fields."""
    encoder, embedding = section["encoder"], section["embedding"]
    several, stable = family == "data2vec_audio", encoder["block"]["name"] == "pre"
    if stable and embedding["norm"] is not None:
        raise UserError("embedding.norm before blocks that normalize what they read")
    if several != (embedding["layers"] > 1):
        raise UserError(f"embedding.layers={embedding['layers']}")
    count = len(embedding["kernels"])
    shared = {
        "model_type": family.replace("_", "-"),
        "hidden_size": section["width"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["mixer"]["heads"],
        "intermediate_size": encoder["feedforward"]["hidden"],
        "hidden_act": activation_of(encoder),
        "layer_norm_eps": encoder["norm"]["eps"],
        "conv_dim": [embedding["channels"]] * count,
        "conv_kernel": embedding["kernels"],
        "conv_stride": embedding["strides"],
        "num_feat_extract_layers": count,
        "conv_bias": embedding["bias"],
        "num_conv_pos_embedding_groups": embedding["groups"],
        "vocab_size": vocabulary or 32,  # of a head that is not there: theirs by default
        "hidden_dropout": encoder["dropout"],
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "final_dropout": 0.0,
        "layerdrop": encoder["layer_drop"],
        "mask_feature_prob": 0.0,
        **_losses(section["objective"]),
    }
    if several:
        return shared | {"num_conv_pos_embeddings": embedding["layers"], "conv_pos_kernel_size": embedding["neighbors"]}
    more = {
        "num_conv_pos_embeddings": embedding["neighbors"],
        "feat_extract_norm": "layer" if embedding["norms"] == "all" else "group",
        "do_stable_layer_norm": stable,
    }
    return shared | more | ({"feat_proj_layer_norm": embedding["project_norm"] is not None} if family == "hubert" else {})


def _losses(objective: Section) -> dict[str, Any]:
    """What config.json says of the head and of hidden positions."""
    if objective["name"] == "ctc":
        ctc = {"pad_token_id": objective["blank"], "ctc_loss_reduction": "sum"}
        return ctc | {"apply_spec_augment": False, "mask_time_prob": objective["hide"], "mask_time_length": objective["span"] or 10}
    return {
        "apply_spec_augment": True,
        "mask_time_prob": objective["share"],
        "mask_time_length": objective["span"],
        "num_negatives": objective["negatives"],
        "contrastive_logits_temperature": objective["logit_temperature"],
        "num_codevector_groups": objective["groups"],
        "num_codevectors_per_group": objective["entries"],
        "codevector_dim": objective["code"],
        "proj_codevector_dim": objective["units"],
        "diversity_loss_weight": objective["diversity"],
    }


def names(section: Section, prefix: str) -> list[Held]:
    """Every tensor; ``prefix`` is that of a whole model with its head."""
    embedding = section["embedding"]
    rules: list[Held] = []
    for index in range(len(embedding["kernels"])):
        place = f"{prefix}feature_extractor.conv_layers.{index}"
        rules += same(f"{place}.conv", f"embedding.convolutions.{index}", *(BOTH if embedding["bias"] else ("weight",)))
        if embedding["norms"] == "all" or not index:
            rules += same(f"{place}.layer_norm", f"embedding.norms.{index}", *BOTH)
    if embedding["project_norm"] is not None:
        rules += same(f"{prefix}feature_projection.layer_norm", "embedding.project_norm", *BOTH)
    rules += same(f"{prefix}feature_projection.projection", "embedding.project", *BOTH)
    rules += _position(embedding, prefix)
    if embedding["norm"] is not None:
        rules += same(f"{prefix}encoder.layer_norm", "embedding.norm", *BOTH)
    else:
        rules += same(f"{prefix}encoder.layer_norm", "encoder.norm", *BOTH)
    theirs, ours = f"{prefix}encoder.layers.{{i}}", "encoder.blocks.{i}"
    for their, our in (
        ("attention.q_proj", "mixer.query"),
        ("attention.k_proj", "mixer.key"),
        ("attention.v_proj", "mixer.value"),
        ("attention.out_proj", "mixer.output"),
        ("layer_norm", "mixer_norm"),
        ("final_layer_norm", "feedforward_norm"),
        ("feed_forward.intermediate_dense", "feedforward.up"),
        ("feed_forward.output_dense", "feedforward.down"),
    ):
        rules += same(f"{theirs}.{their}", f"{ours}.{our}", *BOTH)
    objective = section["objective"]
    if objective["name"] == "ctc":
        rules += [Held(f"lm_head.{leaf}", (f"objective.head.{leaf}",), optional=True) for leaf in BOTH]
    else:
        rules += same("quantizer.weight_proj", "objective.quantizer.scores", *BOTH)
        rules += same("project_q", "objective.values", *BOTH) + same("project_hid", "objective.head", *BOTH)
        entries, size = objective["groups"] * objective["entries"], objective["code"] // objective["groups"]
        rules.append(Held("quantizer.codevectors", ("objective.quantizer.codebook",), shape=(1, entries, size)))
    if objective.get("hide") or objective.get("share"):
        rules.append(Held(f"{prefix}masked_spec_embed", ("objective.hidden.weight",)))
    return per_block(section, rules)


def _position(embedding: Section, prefix: str) -> list[Held]:
    place = f"{prefix}encoder.pos_conv_embed"
    if embedding["layers"] > 1:
        return [
            rule
            for index in range(embedding["layers"])
            for rule in same(f"{place}.layers.{index}.conv", f"embedding.position.layers.{index}", *BOTH)
        ]
    held = "embedding.position.layers.0"
    return [
        Held(f"{place}.conv.parametrizations.weight.original0", (f"{held}.gain",), shape=(1, 1, embedding["neighbors"])),
        Held(f"{place}.conv.parametrizations.weight.original1", (f"{held}.direction",)),
        Held(f"{place}.conv.bias", (f"{held}.bias",)),
    ]
