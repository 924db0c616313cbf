r"""Held-out loss of the training objective, perplexity and bits per byte, per source.

    loss = sum of token losses / scored tokens (nats)      perplexity = exp(loss)
    bits per byte = sum of token losses / (ln 2 * UTF-8 bytes of the scored tokens)

Bits per byte compare models with different tokenizers. Only the objective's first loss counts, without regularizers.
Draws (masks) depend on the row and a fixed key, so every evaluation sees the same corruption.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.evaluating import evaluating
from ..core.parts import part

if TYPE_CHECKING:
    from ..core.seams import Layout


@part
class Loss:
    """windows: an iterable of this rank's windows of micro-batches, the same number on every rank; token_bytes: (V,) or None."""

    def __init__(self, layout: Layout):
        self.layout = layout

    def __call__(
        self, model: nn.Module, *, windows: Iterable[list[dict[str, Tensor]]], objective: Any, token_bytes: Tensor | None
    ) -> dict[str, float]:
        """Returns loss (per unit), perplexity (where tokens are scored), bits_per_byte (causal text only), units, rows, and the means
        over scored rows of what the objective's ``scores`` gives."""
        sums, tokens = torch.zeros(5, dtype=torch.float64), False
        scores: dict[str, Tensor] = {}
        with evaluating(model):
            for window in windows:
                for micro in window:
                    batch = objective.prepare(micro)
                    losses = next(iter(model(batch).values()))
                    real = batch["rows"] >= 0
                    sums[0] += losses[real].double().sum().cpu()
                    sums[1] += batch["units"][real].sum().cpu()
                    sums[2] += real.sum().cpu()
                    tokens = tokens or "targets" in batch
                    scored = real & (batch["units"] > 0)
                    sums[4] += scored.sum().cpu()
                    for name, value in model(batch, ask="scores").items() if hasattr(objective, "scores") else ():
                        scores[name] = scores.get(name, torch.zeros((), dtype=torch.float64)) + value[scored].double().sum().cpu()
                    if token_bytes is not None and objective.causal and "targets" in batch:
                        targets = batch["targets"][real]
                        sums[3] += token_bytes[targets[targets >= 0].cpu()].sum()
        total, units, rows, size, scored_rows = self.layout.total(sums).tolist()
        loss = total / units if units else math.nan
        result = {"loss": loss} | ({"perplexity": math.exp(min(loss, 700.0))} if tokens else {}) | {"units": units, "rows": rows}
        result |= {name: float(self.layout.total(value)) / max(1.0, scored_rows) for name, value in sorted(scores.items())}
        return result | ({"bits_per_byte": total / (math.log(2) * size)} if size else {})
