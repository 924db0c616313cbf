r"""Most of an image is hidden, its values are drawn back from the rest.   He et al. 2021 (MAE), arXiv:2111.06377, section 3.

    h = encoder(patches that stay)        p = W decoder(h, placeholders) + b        at every hidden patch

    loss = sum over hidden patches of mean over their values of (p - t)^2        t = (v - mean v) / sqrt(var v + 1e-6) with norm, else v

The encoder is given the share 1 - rate of the patches only, exactly floor(T (1 - rate)) in every row, drawn from the row's number. The
decoder is model.decoder with ``cross: null``; it is thrown away after. Works over any embedding of squares with ``values`` and a grid of
fixed size.

Shapes: v (B, T, C p p)   head: (C p p, E)   Cost: encoder over T (1 - rate) positions, decoder over T.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.parts import Fraction, Slot, part
from ..core.seams import Field
from ..nn.embedding._placed import refuse_turning
from ..nn.linear.dense import Dense
from ..nn.subset import draw
from ..ops.random import salt_of
from ._patches import ADDED, Filler, entered, known_grid, refuse_padding, unfit_decoder

INSTEAD = {"series_patch": "masked_series", "columns": "masked_columns"}


@part
class MaskedPatches(nn.Module):
    """rate: share of the patches that is hidden. norm: bring every patch's values to mean 0, deviation 1 before they are compared.
    position: of the decoder's positions. output_scale: set by width-transferring initial values, where the head reads the model's width."""

    causal, couples_batch = False, False

    def __init__(
        self,
        width: int,
        embedding: Any,
        decoder_width: int,
        fields: dict[str, Field] | None = None,
        *,
        rate: Fraction = 0.75,
        norm: bool = True,
        position: Slot["nn.position"] = "sincos",
    ):
        super().__init__()
        refuse_padding("masked_patches", embedding, fields)
        self.embedding, self.rate, self.norm = embedding, rate, norm
        self.fill = Filler(decoder_width, embedding, position)
        self.head = Dense(
            inputs=decoder_width, outputs=embedding.channels * embedding.patch**2, bias=True, axes=("patch", "width"), role="head"
        )
        if decoder_width == width:  # a width of the decoder's own does not grow with the model's
            self.output_scale = 1.0

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from unfit_decoder("masked_patches", context)
        yield from refuse_turning(knobs["position"], ADDED)
        embedding = getattr(getattr(context.get("run"), "model", None), "embedding", None)
        if embedding is not None and embedding.name in INSTEAD:
            yield f"masked_patches draws back squares of an image; for embedding {embedding.name!r} use {INSTEAD[embedding.name]}"
        if not 0 < knobs["rate"] < 1:
            yield f"rate hides a share of the patches, between 0 and 1, got {knobs['rate']:g}"

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds kept (B, K), hidden (B, T - K), and units: hidden patches."""
        count = math.prod(known_grid("masked_patches", self.embedding, batch))
        # A hair above, so that an exact multiple that floating point puts below itself is not rounded down.
        kept = max(1, math.floor(count * (1 - self.rate) + 1e-9))
        device = batch["rows"].device
        stays_BK = draw(count, kept, batch["rows"], batch["key"], torch.tensor(salt_of("masked_patches"), device=device))
        masked_BT = torch.ones(len(stays_BK), count, dtype=torch.bool, device=device).scatter(1, stays_BK, False)
        hidden_BU = masked_BT.int().argsort(dim=1, descending=True, stable=True)[:, : count - kept]
        return batch | {"kept": stays_BK, "hidden": hidden_BU, "units": (batch["rows"] >= 0).long() * (count - kept)}

    def forward(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error_BU = (self.predicted(model, batch) - self.targets(batch)).square().mean(dim=-1)
        return {"squared_error": error_BU.sum(dim=1) * (batch["units"] > 0)}

    def predicted(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Values of the hidden patches, (B, U, C p p), in fp32 at least."""
        h_BKD, context = model.encoded(batch, causal=False)
        y_BUE = self.fill.through(model, batch, entered(model, h_BKD), context.positions_BT, batch["hidden"] + self.fill.leading)
        scale = getattr(self, "output_scale", 1.0)
        found: Tensor = self.head(y_BUE if scale == 1.0 else y_BUE * scale)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """What they are, (B, U, C p p)."""
        values: Tensor = self.embedding.values(batch)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        t = values.gather(1, batch["hidden"][..., None].expand(-1, -1, values.shape[-1]))
        return (t - t.mean(dim=-1, keepdim=True)) / (t.var(dim=-1, keepdim=True) + 1e-6).sqrt() if self.norm else t
