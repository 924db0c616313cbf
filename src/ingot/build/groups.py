"""Parameter groups for an optimizer: by role, weight decay, width-transferred learning rate, read from the declared axes, and by depth."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..core.axes import Axes, axes_of

DECAYED = frozenset({"matrix", "head", "embedding", "position"})
BLOCK = re.compile(r"(towers\.[^.]+\.|)encoder\.blocks\.(\d+)\.")
EMBEDDING = re.compile(r"(towers\.[^.]+\.|)embedding\.")


def parameter_groups(model: nn.Module, initializer: Any, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Groups of trainable parameters: params, names, axes, lr_scale, decay. Every parameter is in exactly one group. layer_decay: see
    depth_scales."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    axes: dict[str, Axes] = axes_of(model)
    depth = depth_scales(axes, layer_decay)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        label = axes[name]
        scale = float(initializer.lr_scale(name, label, tuple(parameter.shape))) * depth[name]
        decay = label.role in DECAYED
        group = groups.setdefault(
            (label.role == "matrix", decay, scale), {"params": [], "names": [], "axes": [], "lr_scale": scale, "decay": decay}
        )
        group["params"].append(parameter)
        group["names"].append(name)
        group["axes"].append(label)
    return list(groups.values())


def depth_scales(names: Iterable[str], decay: float) -> dict[str, float]:
    """Of every parameter, decay^(L - l): l = 0 for an embedding, 1 to depth for the blocks of its encoder, L = depth + 1 for all behind.

    Clark et al. 2020 (ELECTRA), arXiv:2003.10555, appendix B; Bao et al. 2021 (BEiT), arXiv:2106.08254. A further tower counts its own
    blocks; decoders and objectives learn at the whole rate.
    """
    names = list(names)
    depth: dict[str, int] = {}
    for name in names:
        if block := BLOCK.match(name):
            depth[block[1]] = max(depth.get(block[1], 0), int(block[2]) + 1)
    found = {}
    for name in names:
        below = 0
        if block := BLOCK.match(name):
            below = depth[block[1]] - int(block[2])
        elif embedding := EMBEDDING.match(name):
            below = depth.get(embedding[1], 0) + 1
        found[name] = decay**below
    return found
