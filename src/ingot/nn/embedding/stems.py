r"""One encoder for several modalities, each with a stem of its own, as in M3I and UNIMO (arXiv:2211.09807, arXiv:2012.15409).

    x = [stem_a(values_a) + m_a, stem_b(values_b) + m_b, ...]        the stems whose values the batch holds, one after another

m: a learned vector per stem. Positions run within each stem; padding of one stem stays padding. An objective that wants one modality
alone passes a batch without the keys of the others.

x_BTD, T the sum over the stems that are there   m: (D) each   Cost: that of the stems.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.axes import label
from ...core.errors import UserError
from ...core.parts import Slot, Spec, part
from ..context import Context
from ._placed import positions_given


class Kind(nn.Module):
    """The vector that tells a modality."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        label(self, "weight", "width", role="embedding")


@part
class Stems(nn.Module):
    """stems: embeddings by name, in the order in which they are put together."""

    leading = 0

    def __init__(
        self,
        width: int,
        linear: Spec,
        sequence: int,
        vocabulary: int | None = None,
        fields: Any = None,
        *,
        stems: dict[str, Slot["nn.embedding"]],
    ):
        super().__init__()
        wiring = {"width": width, "linear": linear, "sequence": sequence, "vocabulary": vocabulary, "fields": fields}
        self.stems = nn.ModuleDict({name: stem.build(**wiring) for name, stem in stems.items()})
        self.kinds = nn.ModuleDict({name: Kind(width) for name in stems})
        self.longest = sum(int(getattr(stem, "longest", sequence)) for stem in self.stems.values())
        self.reads = tuple(key for stem in self.stems.values() for key in getattr(stem, "reads", ()))
        text = [stem for stem in self.stems.values() if hasattr(stem, "vocabulary")]
        self.vocabulary = text[0].vocabulary if text else None
        self.text = next((name for name, stem in self.stems.items() if hasattr(stem, "vocabulary")), "")

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        if len(knobs["stems"]) < 2:
            yield "stems wants two or more; one alone is the embedding itself"

    @property
    def weight(self) -> Tensor:
        """The matrix of the tokens' stem, for a head that is tied to it."""
        if not self.text:
            raise UserError("a tied head wants a stem of tokens")
        return self.stems[self.text].weight  # type: ignore[return-value]

    def present(self, batch: dict[str, Tensor]) -> list[str]:
        """The stems whose values the batch holds."""
        found = [name for name, stem in self.stems.items() if all(key in batch for key in stem.reads)]  # type: ignore[union-attr]
        if not found:
            raise UserError(f"no stem reads what the data gives; they read {', '.join(self.reads)}")
        return found

    def grid(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        """(T,), all stems together, class tokens included."""
        sizes = [(self.stems[name], self.stems[name].grid(batch)) for name in self.present(batch)]  # type: ignore[operator]
        return (sum(int(torch.tensor(grid).prod()) + int(getattr(stem, "leading", 0)) for stem, grid in sizes),)

    def lengths(self, batch: dict[str, Tensor]) -> Tensor:
        """Positions that are not padding, counted as ``grid`` does."""
        total = torch.zeros_like(batch["rows"])
        for name in self.present(batch):
            total = total + positions_given(self.stems[name], batch) + int(getattr(self.stems[name], "leading", 0))
        return total

    def forward(self, batch: dict[str, Tensor], context: Context) -> Tensor:
        pieces, positions, segments = [], [], []
        for name in self.present(batch):
            own = replace(context, shared={})
            x_BTD = self.stems[name](batch, own) + self.kinds[name].weight
            own.settle(x_BTD)
            pieces.append(x_BTD)
            positions.append(own.positions_BT)
            segments.append(own.segments_BT)
        context.positions_BT = torch.cat(positions, dim=1)
        if any(segment is not None for segment in segments):
            real = [
                torch.ones(x.shape[:2], dtype=torch.int32, device=x.device) if segment is None else segment
                for x, segment in zip(pieces, segments)
            ]
            context.segments_BT = torch.cat(real, dim=1)
        return torch.cat(pieces, dim=1)
