"""Parameter groups for an optimizer: by role, weight decay and width-transferred learning rate, read from the declared axes."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.axes import Axes, axes_of

DECAYED = frozenset({"matrix", "head", "embedding", "position"})


def parameter_groups(model: nn.Module, initializer: Any) -> list[dict[str, Any]]:
    """Groups of trainable parameters: params, names, axes, lr_scale, decay. Every parameter is in exactly one group."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    axes: dict[str, Axes] = axes_of(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        label = axes[name]
        scale = float(initializer.lr_scale(name, label, tuple(parameter.shape)))
        decay = label.role in DECAYED
        group = groups.setdefault(
            (label.role == "matrix", decay, scale), {"params": [], "names": [], "axes": [], "lr_scale": scale, "decay": decay}
        )
        group["params"].append(parameter)
        group["names"].append(name)
        group["axes"].append(label)
    return list(groups.values())
