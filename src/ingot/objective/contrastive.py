r"""Two looks of a row are found among those of all other rows.   Chen et al. 2020 (SimCLR), arXiv:2002.05709, section 2.1 (NT-Xent).

    z = g(f(x)) / |g(f(x))|        s_ij = z_i . z_j / temperature        over the 2 N looks of N rows, i and p(i) the two of a row

    loss of a row = mean over its two looks i of  -log( exp s_i,p(i) / sum over j != i of exp s_ij )

g: linear layers with GELU; DEPARTS: no batch normalization in it, which would tie a row to its micro-batch (``norm``, of each row by
itself, takes its place). Rows without further looks (held-out ones) are compared with themselves, so their loss tells how far rows are
apart. Features are those before g, as the paper finds better (section 4.2).

Shapes: x_BTD -> z (2 B, outputs)   Cost: 2 (2 N)^2 outputs per step on each rank, and one forward more under accumulation or ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.parts import Positive, Slot, Spec, part
from ..nn.pooling import Pooling, pooled
from ..nn.side import Gathered
from ._projection import Projection, one_each, picked, real_rows, unit
from ._views import count, looks, refuse_one_view


@part
class Contrastive(nn.Module):
    """temperature: of the softmax. hidden, outputs: of g; the width when not given. layers: of g. norm: between them. pooling: which
    positions speak for a row."""

    causal, couples_batch = False, True

    def __init__(
        self,
        width: int,
        linear: Spec,
        *,
        temperature: Positive[float] = 0.1,
        hidden: Positive[int] | None = None,
        outputs: Positive[int] = 128,
        layers: Positive[int] = 2,
        norm: Slot["nn.norm"] | None = "layer",
        pooling: Pooling = "mean",
    ):
        super().__init__()
        self.temperature, self.pooling = temperature, pooling
        self.head = Projection(width, [*[hidden or width] * (layers - 1), outputs], linear, norm)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from refuse_one_view("contrastive", context)

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds units: 1 for every row."""
        return one_each(batch)

    def forward(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.couple(self.represent(model, batch), batch)

    def represent(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """z of both looks, (B, outputs) each."""
        h_BTD, context = model.encoded(looks(batch, (0, 1 if count(batch) > 1 else 0)), causal=False)
        sides, rows = Gathered(model.encoder), batch["rows"]
        sides.take(torch.arange(len(rows), device=rows.device).repeat(2), rows=len(rows))
        sides.leave()
        z = unit(self.head(pooled(h_BTD, context, self.pooling, int(getattr(model.embedding, "leading", 0)))))
        one, other = z.chunk(2)
        return {"one": one, "other": other}

    def couple(self, representations: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of every row, (N,)."""
        z, real = torch.cat([representations["one"], representations["other"]]), real_rows(batch).repeat(2)
        N = len(real) // 2
        itself = torch.eye(2 * N, dtype=torch.bool, device=z.device)
        partner = torch.arange(2 * N, device=z.device).roll(N)
        allowed = (real[None] | itself.roll(N, dims=1)) & ~itself
        loss = picked(z @ z.T / self.temperature, allowed, partner)
        return {"contrastive": torch.where(real, loss, 0).view(2, N).mean(dim=0)}
