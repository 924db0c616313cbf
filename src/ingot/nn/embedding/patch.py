r"""Squares of an image, each projected to a vector.   Dosovitskiy et al. 2020 (ViT), arXiv:2010.11929, section 3.1.

    x_t = W patch_t + b + P_t        (c, W patch_1 + b, ..., W patch_T + b) + P where there is a class token c

image (B, C, H, W) -> x_BTD, T = (H / p) (W / p), one more with a class token   W: (D, C p p)   P: (T, D)

Bytes are first brought to (value / 255 - mean) / std; images of floats are taken as they are.   Cost: 2 C p^2 D per position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError
from ...core.parts import Fraction, Positive, Slot, part
from ...core.seams import Field
from ..context import Context
from ..dropout import Dropout
from ..linear.dense import Dense
from ..vector import Vector
from ._placed import placed, refuse_turning


@part
class Patch(nn.Module):
    """patch: p. image, channels: side of the image and C, those of the data when not given. class_token: put a learned vector in
    front. bias: b. position: added positions. mean, std: of the values after division by 255, one number or one per channel. norm, dropout:
    on the result."""

    reads: tuple[str, ...] = ("image",)

    def __init__(
        self,
        width: int,
        fields: Mapping[str, Field] | None = None,
        *,
        patch: Positive[int],
        image: Positive[int] | None = None,
        channels: Positive[int] | None = None,
        class_token: bool = False,
        bias: bool = True,
        position: Slot["nn.position"] | None = "learned",
        mean: float | list[float] = 0.5,
        std: Positive[float] | list[float] = 0.5,
        norm: Slot["nn.norm"] | None = None,
        dropout: Fraction = 0.0,
    ):
        super().__init__()
        C, H, W = _shape(fields or {}, image, channels)
        if H % patch or W % patch:
            raise UserError(f"patches of {patch} do not divide an image of {H} x {W}")
        self.width, self.patch, self.channels, self.size = width, patch, C, (H // patch, W // patch)
        self.leading = int(class_token)
        self.longest = self.leading + self.size[0] * self.size[1]
        self.project = Dense(inputs=C * patch * patch, outputs=width, bias=bias, axes=("width", "patch"), role="embedding")
        self.first = Vector(width) if class_token else None
        self.position = position.build(width=width, sequence=self.longest, grid=self.size, leading=self.leading) if position else None
        self.norm = norm.build(width=width) if norm else None
        self.dropout = Dropout(dropout)
        for name, value in (("mean", mean), ("std", std)):
            if isinstance(value, list) and len(value) not in (1, C):
                raise UserError(f"embedding.{name} wants one number or one for each of {C} channels, got {value}")
            self.register_buffer(name, torch.tensor(value if isinstance(value, list) else [value]).view(-1, 1, 1), persistent=False)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        channels = knobs["channels"]
        yield from refuse_turning(knobs["position"])
        if knobs["image"] is not None and knobs["image"] % knobs["patch"]:
            yield f"patches of {knobs['patch']} do not divide an image of {knobs['image']}"
        for name in ("mean", "std"):
            if isinstance(knobs[name], list) and channels is not None and len(knobs[name]) not in (1, channels):
                yield f"{name} wants one number or one for each of {channels} channels, got {knobs[name]}"

    @staticmethod
    def positions(knobs: dict[str, Any]) -> int | None:
        """How many there are, where the knobs alone say it."""
        return (knobs["image"] // knobs["patch"]) ** 2 + int(knobs["class_token"]) if knobs["image"] is not None else None

    def settled(self) -> dict[str, Any]:
        """What the data decided."""
        square = self.size[0] == self.size[1]
        return {"channels": self.channels} | ({"image": self.size[0] * self.patch} if square else {})

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(rows, columns) of patches."""
        H, W = batch["image"].shape[-2:]
        return (H // self.patch, W // self.patch)

    def values(self, batch: dict[str, Tensor]) -> Tensor:
        """The normalized values of every patch, (B, T, C p p), channel by channel."""
        image = batch["image"]
        wide = self.project.weight.dtype if image.dtype == torch.uint8 else image.dtype
        if image.dtype == torch.uint8:
            image = (image.to(wide) / 255 - self.mean.to(wide)) / self.std.to(wide)
        B, C, H, W = image.shape
        if self.channels != C:
            raise UserError(f"the model reads images of {self.channels} channels, the data gives {C}")
        p = self.patch
        return image.view(B, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5).reshape(B, (H // p) * (W // p), C * p * p)

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        values = self.values(batch)
        x_BTD: Tensor = context.hide(self.project(values if context.dtype is None else values.to(context.dtype)))
        if self.first is not None:
            x_BTD = torch.cat([self.first.weight.to(x_BTD.dtype).expand(len(x_BTD), 1, -1), x_BTD], dim=1)
        if self.position is None or self.grid(batch) == self.size:
            return placed(self, x_BTD, context)
        context.settle(x_BTD)
        x_BTD = x_BTD + self.between(self.grid(batch)).to(x_BTD.dtype)
        return self.dropout(x_BTD if self.norm is None else self.norm(x_BTD), context)

    def between(self, grid: tuple[int, ...]) -> Tensor:
        """(1, T, D): positions of an image of another size, between those that are known (section 3.2; bicubic)."""
        known_1TD = self.position(torch.arange(self.longest, device=self.mean.device)[None])  # type: ignore[misc]
        front, table = known_1TD[:, : self.leading], known_1TD[:, self.leading :].unflatten(1, self.size).permute(0, 3, 1, 2)
        found = F.interpolate(table.to(torch.promote_types(table.dtype, torch.float32)), size=grid, mode="bicubic", align_corners=False)
        return torch.cat([front.to(found.dtype), found.flatten(2).mT], dim=1)

    def extra_repr(self) -> str:
        return f"patch={self.patch}, size={self.size}, channels={self.channels}"


def _shape(fields: Mapping[str, Field], image: int | None, channels: int | None) -> tuple[int, int, int]:
    """C, H, W of the knobs, else of the data; 3 channels where neither says."""
    known = fields["image"].shape if "image" in fields else None
    if known is None and image is None:
        raise UserError("embedding.image: the data gives no image; say the side of the images to read")
    C, H, W = known if known is not None else (channels or 3, image, image)
    return channels or C, image or H, image or W
