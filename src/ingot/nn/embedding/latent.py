r"""What a frozen encoder made of a row, as a sequence of one position.   Vouitsis et al. 2024 (FuseMix), arXiv:2312.10144, section 4.

    x = W z + b        x = z where the latent is as wide as the model

latents are found once, by the annotator ``latents``, and read instead of images or texts.   z (B, M) -> x_BTD, T = 1   Cost: 2 M D per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...core.errors import UserError
from ...core.parts import Positive, part
from ...core.seams import Field
from ..context import Context
from ..linear.dense import Dense


@part
class Latent(nn.Module):
    """key: of the rows, ``latent_`` and the encoder's name for what the annotator found. size: M, that of the data when not given."""

    reads: tuple[str, ...] = ("latent",)
    leading, longest = 0, 1

    def __init__(self, width: int, fields: Mapping[str, Field] | None = None, *, key: str = "latent", size: Positive[int] | None = None):
        super().__init__()
        known = (fields or {}).get(key)
        if known is None and size is None:
            raise UserError(f"embedding.key: the data gives no {key!r}; set stages.0.annotate to latents, or say the size")
        self.key, self.reads = key, (key,)
        self.size = size or known.shape[0]  # type: ignore[union-attr]
        self.project = (
            Dense(inputs=self.size, outputs=width, bias=True, axes=("width", "latent"), role="embedding") if self.size != width else None
        )

    @staticmethod
    def reading(knobs: dict[str, Any]) -> tuple[str, ...]:
        """The keys that these knobs name."""
        return (knobs["key"],)

    def settled(self) -> dict[str, Any]:
        """What the data decided."""
        return {"size": self.size}

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(1,)."""
        return (1,)

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        z_BM = batch[self.key]
        if z_BM.shape[1] != self.size:
            raise UserError(f"the model reads latents of {self.size}, the data gives {z_BM.shape[1]}")
        x_BD = z_BM if self.project is None else self.project(z_BM.to(self.project.weight.dtype))
        x_BTD: Tensor = context.hide(x_BD[:, None])
        return x_BTD
