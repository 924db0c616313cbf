r"""Stretches of a time series, each projected to a vector.   Nie et al. 2022 (PatchTST), arXiv:2211.14730, section 3.1.

    z = (series - m_c) / s_c        m_c, s_c: mean and deviation of the window's channel c (Kim et al. 2022, RevIN, without gains)
    x_cn = W z[n S : n S + P, c] + b + P_n

series (B, L, C) -> x_BTD, T = C N, N = (L - P) / S + 1, one more with ``pad``   W: (D, P)   P: (N, D)

A row stays a row: its channels stand one after another as documents of N positions each, which attention does not cross (channel
independence), so losses and features are per row and shared weights see every channel alone. With ``independent: false`` all channels
of a row attend to each other. Missing values are 0 after normalization, which reads what was observed alone.

Cost: 2 P D per position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError
from ...core.parts import Fraction, Positive, Slot, part
from ...core.seams import Field
from ..context import Context
from ..dropout import Dropout
from ..linear.dense import Dense
from ._placed import placed, refuse_turning

SMALLEST = 1e-5  # added to a channel's variance


@part
class SeriesPatch(nn.Module):
    """patch, stride: P and S, S = P when not given. pad: repeat the last value S times, so that the end is read whole; without it the
    patches end with the series and the values before the first are left out. normalize: instance normalization by mean and deviation,
    by the mean alone, or none. length, channels: L and C, those of the data when not given. position: added positions."""

    reads: tuple[str, ...] = ("series",)
    leading = 0

    def __init__(
        self,
        width: int,
        fields: Mapping[str, Field] | None = None,
        *,
        patch: Positive[int],
        stride: Positive[int] | None = None,
        pad: bool = False,
        normalize: Literal["std", "mean"] | None = "std",
        independent: bool = True,
        length: Positive[int] | None = None,
        channels: Positive[int] | None = None,
        position: Slot["nn.position"] | None = "learned",
        norm: Slot["nn.norm"] | None = None,
        dropout: Fraction = 0.0,
    ):
        super().__init__()
        known = fields["series"].shape if fields and "series" in fields else None
        if known is None and (length is None or channels is None):
            raise UserError("embedding.length and channels: the data gives no series; say what is to be read")
        self.length, self.channels = length or known[0], channels or known[1]  # type: ignore[index]
        self.width, self.patch, self.stride, self.pad = width, patch, stride or patch, pad
        if self.length < patch:
            raise UserError(f"a patch of {patch} does not fit into a series of {self.length}")
        self.normalize, self.independent = normalize, independent
        count = (self.length - patch) // self.stride + 1 + int(pad)
        self.size = (self.channels, count)
        self.longest = self.channels * count
        self.within = count if independent else self.longest
        self.project = Dense(inputs=patch, outputs=width, bias=True, axes=("width", "patch"), role="embedding")
        self.position = position.build(width=width, sequence=self.within) if position else None
        self.norm = norm.build(width=width) if norm else None
        self.dropout = Dropout(dropout)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        length = knobs["length"]
        yield from refuse_turning(knobs["position"])
        if length is not None and length < knobs["patch"]:
            yield f"a patch of {knobs['patch']} does not fit into a series of {length}"

    @staticmethod
    def positions(knobs: dict[str, Any]) -> int | None:
        """How many there are, where the knobs alone say it."""
        if knobs["length"] is None or (not knobs["independent"] and knobs["channels"] is None):
            return None
        count = (knobs["length"] - knobs["patch"]) // (knobs["stride"] or knobs["patch"]) + 1 + int(knobs["pad"])
        return count if knobs["independent"] else count * knobs["channels"]

    def settled(self) -> dict[str, Any]:
        """What the data decided."""
        return {"length": self.length, "channels": self.channels, "stride": self.stride}

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(channels, patches)."""
        return self.size

    def scale(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every channel of a row, (B, 1, C) each; what a forecast is brought back with."""
        series_BLC = batch["series"]
        if self.normalize is None:
            return torch.zeros_like(series_BLC[:, :1]), torch.ones_like(series_BLC[:, :1])
        there = batch["observed"].to(series_BLC.dtype) if "observed" in batch else torch.ones_like(series_BLC)
        count = there.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (series_BLC * there).sum(dim=1, keepdim=True) / count
        if self.normalize == "mean":
            return mean, torch.ones_like(mean)
        return mean, ((((series_BLC - mean) * there) ** 2).sum(dim=1, keepdim=True) / count + SMALLEST).sqrt()

    def values(self, batch: dict[str, Tensor]) -> Tensor:
        """The normalized values of every patch, (B, T, P), channel by channel."""
        mean, std = self.scale(batch)
        z_BLC = (batch["series"] - mean) / std
        return self.patches(z_BLC * batch["observed"] if "observed" in batch else z_BLC)

    def seen(self, batch: dict[str, Tensor]) -> Tensor:
        """Which of ``values`` were observed, (B, T, P) bool."""
        there = batch["observed"] if "observed" in batch else torch.ones_like(batch["series"], dtype=torch.bool)
        return self.patches(there.to(batch["series"].dtype)) > 0

    def patches(self, z_BLC: Tensor) -> Tensor:
        """(B, L, C) -> (B, C N, P)."""
        if z_BLC.shape[1:] != (self.length, self.channels):
            raise UserError(f"the model reads series of {self.length} x {self.channels}, the data gives {tuple(z_BLC.shape[1:])}")
        z_BCL = z_BLC.transpose(1, 2)
        if self.pad:
            z_BCL = F.pad(z_BCL, (0, self.stride), mode="replicate")
        used = self.patch + self.stride * (self.size[1] - 1)
        return z_BCL[:, :, z_BCL.shape[2] - used :].unfold(2, self.patch, self.stride).flatten(1, 2)

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        values_BTP = self.values(batch).to(context.dtype or self.project.weight.dtype)
        if "blanked" in batch:  # positions whose values, and not whose vectors, an objective hides
            values_BTP = values_BTP.masked_fill(batch["blanked"][..., None], 0.0)
        x_BTD: Tensor = context.hide(self.project(values_BTP))
        if self.independent:
            C, N = self.size
            place_T = torch.arange(C * N, device=x_BTD.device)
            context.positions_BT = (place_T % N).expand(len(x_BTD), -1)
            context.segments_BT = (place_T // N + 1).int().expand(len(x_BTD), -1)
            context.even = C
        return placed(self, x_BTD, context)

    def extra_repr(self) -> str:
        return f"patch={self.patch}, stride={self.stride}, size={self.size}"
