r"""Held-out loss of the training objective, perplexity and bits per byte, per source.

    loss = sum of token losses / scored tokens (nats)      perplexity = exp(loss)
    bits per byte = sum of token losses / (ln 2 * UTF-8 bytes of the scored tokens)

Bits per byte compare models with different tokenizers. Only the objective's first loss counts, without regularizers and before its
weight, so that runs with other weights can be compared.
Draws (masks) depend on the row and a fixed key, so every evaluation sees the same corruption. Losses that compare rows compare those of a
piece of evaluate.batch_rows, cut by row number, however many ranks there are: numbers of runs with pieces of another size differ.
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
        over scored rows, or over what is counted, of what the objective's ``scores`` gives."""
        sums, tokens = torch.zeros(4, dtype=torch.float64), False
        scores: dict[str, Tensor] = {}
        with evaluating(model):
            for window in windows:
                for micro in window:
                    batch = objective.prepare(micro)
                    _, losses, units = model(batch, ask="measured")
                    real = batch["rows"] >= 0
                    sums[0] += losses[real].double().sum().cpu()
                    sums[1] += units[real].sum().cpu()
                    sums[2] += real.sum().cpu()
                    tokens = tokens or "targets" in batch
                    scored = real & (batch["units"] > 0)
                    for name, value in model(batch, ask="scores").items() if hasattr(objective, "scores") else ():
                        pair = value if isinstance(value, tuple) else (value.masked_fill(~scored, 0), scored)
                        found = torch.stack([part[real].double().sum().cpu() for part in pair])
                        scores[name] = scores.get(name, torch.zeros(2, dtype=torch.float64)) + found
                    if token_bytes is not None and objective.causal and "targets" in batch:
                        targets = batch["targets"][real]
                        sums[3] += token_bytes[targets[targets >= 0].cpu()].sum()
        total, count, rows, size = self.layout.total(sums).tolist()
        loss = total / count if count else math.nan
        result = {"loss": loss} | ({"perplexity": math.exp(min(loss, 700.0))} if tokens else {}) | {"units": count, "rows": rows}
        for name, pair in sorted(scores.items()):
            value, number = self.layout.total(pair).tolist()
            result[name] = value / max(1.0, number)
        return result | ({"bits_per_byte": total / (math.log(2) * size)} if size else {})
