"""Do activations keep their size as the model widens?   Yang et al. 2022, arXiv:2203.03466, appendix D.1.

A few optimizer steps at several widths, then how far the coordinates of each kind of layer's output have moved, on average, from
where they started. Under a parametrization that transfers across widths, the curves over width are flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.axes import axes_of
from .graph import Model

Sizes = dict[str, dict[int, float]]


def coordinate_check(
    make: Callable[[int], tuple[Model, Any]],
    widths: Iterable[int],
    batch: Mapping[str, Tensor],
    *,
    steps: int = 4,
    lr: float = 1e-2,
    seeds: int = 1,
) -> Sizes:
    """Mean absolute change by kind of layer (embedding, mixer, feedforward, encoder, logits) and width, after ``steps`` of AdamW.

    make(width) returns a model and its initializer; ``seeds`` runs are averaged.
    """
    found: Sizes = {}
    for width in widths:
        for seed in range(seeds):
            model, initializer = make(width)
            initializer.apply(model, seed)
            optimizer = torch.optim.AdamW(_groups(model, initializer, lr), lr=lr, weight_decay=0.0)
            prepared = model.objective.prepare(dict(batch))  # type: ignore[operator]
            before = _outputs(model, prepared)
            for _ in range(steps):
                optimizer.zero_grad()
                (sum(losses.sum() for losses in model(prepared).values()) / prepared["units"].sum()).backward()  # type: ignore[union-attr]
                optimizer.step()
            for kind, outputs in _outputs(model, prepared).items():
                moved = [float((new - old).abs().mean()) for new, old in zip(outputs, before[kind], strict=True)]
                by_width = found.setdefault(kind, {})
                by_width[width] = by_width.get(width, 0.0) + sum(moved) / len(moved) / seeds
    return found


def spread(sizes: Sizes) -> dict[str, float]:
    """Largest over smallest size, by kind."""
    return {kind: max(by_width.values()) / min(by_width.values()) for kind, by_width in sizes.items()}


def _groups(model: Model, initializer: Any, lr: float) -> list[dict[str, Any]]:
    axes = axes_of(model)
    return [{"params": [p], "lr": lr * initializer.lr_scale(name, axes[name], tuple(p.shape))} for name, p in model.named_parameters()]


def _outputs(model: Model, batch: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """What each layer of a kind gives in one forward."""
    seen: dict[str, list[Tensor]] = {}

    def watch(kind: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: seen.setdefault(kind, []).append(output.detach())

    watched = {"embedding": [model.embedding], "encoder": [model.encoder]}
    for kind in ("mixer", "feedforward"):
        watched[kind] = [getattr(block, kind) for block in model.encoder.blocks]  # type: ignore[union-attr]
    handles = [module.register_forward_hook(watch(kind)) for kind, modules in watched.items() for module in modules]
    with torch.no_grad():
        h_BTD = model.encode(batch, causal=bool(model.objective.causal))
        seen["logits"] = [model.logits(h_BTD)]
    for handle in handles:
        handle.remove()
    return seen
