"""What evaluators of representations share: features and labels of all ranks' rows, computed without gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.evaluating import evaluating

if TYPE_CHECKING:
    from ..core.seams import Layout


def features(
    model: nn.Module, windows: Iterable[list[dict[str, Tensor]]], layout: Layout, *keys: str, ask: Any = "features"
) -> tuple[Tensor, ...]:
    """(N, D) float64 features of the real rows (or what else is asked of the model, see Model.forward), and each key's values, (N, ...), in
    the order of the rows' numbers; equal on all ranks."""
    found: list[list[Tensor]] = [[] for _ in range(2 + len(keys))]
    with evaluating(model):
        for window in windows:
            for micro in window:
                real = micro["rows"] >= 0
                values = [micro["rows"], model(micro, ask=ask), *(micro[key] for key in keys)]
                for store, value in zip(found, values, strict=True):
                    store.append(value[real].cpu())
    parts = [torch.cat(store) if store else torch.zeros(0) for store in found]
    gathered = [torch.cat([part for part in layout.gather(value) if len(part)]) for value in parts]
    order = gathered[0].argsort()
    return (gathered[1][order].double(), *(value[order] for value in gathered[2:]))


def of_layer(layer: int | None) -> Any:
    """What to ask of a model for its features: its own, or the mean of real positions behind so many blocks of its encoder."""
    return "features" if layer is None else lambda model, batch: model.features(batch, layer=layer)


def labeled(x_ND: Tensor, label_N: Tensor, learner: str = "") -> tuple[Tensor, Tensor]:
    """Only rows that have a label. learner: who learns from them; UserError where there are none."""
    there = label_N >= 0
    if learner and not there.any():
        raise UserError(f"{learner}: no training row has a label")
    return x_ND[there], label_N[there]


def accuracy(predicted_N: Tensor, label_N: Tensor) -> float:
    """Share of right classes; 0 where there is no row."""
    return float((predicted_N == label_N).double().mean()) if len(label_N) else 0.0


def class_count(fields: Any, *labels: Tensor) -> int:
    """Classes of the data, at least as many as are seen."""
    known = getattr((fields or {}).get("label"), "values", None) or 0
    return max(known, *(int(label.max()) + 1 if len(label) else 1 for label in labels))


def pieces(batch: dict[str, Tensor], order: Tensor, size: int) -> Iterable[dict[str, Tensor]]:
    """The batch in pieces, in this order."""
    for start in range(0, len(order), size):
        chosen = order[start : start + size].to(batch["rows"].device)
        yield {name: value if value.dim() == 0 else value[chosen] for name, value in batch.items()}
