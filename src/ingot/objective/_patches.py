"""What objectives share that hide parts of a grid and predict them from the rest, through a light decoder whose input holds both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.parts import Spec
from ..core.seams import Field
from ..nn.context import Context
from ..nn.position.relative import by_place
from ..nn.vector import Vector

ADDED = "objective.position wants one that is added to vectors, such as sincos or learned"


class Filler(nn.Module):
    """Known and unknown positions as a light decoder's input: vectors of the known, a learned one elsewhere, positions added to both.

    position: over the embedding's positions, the leading ones first. width: that of the decoder's blocks.
    """

    def __init__(self, width: int, embedding: Any, position: Spec):
        super().__init__()
        self.leading = int(getattr(embedding, "leading", 0))
        self.hidden = Vector(width)
        grid = tuple(getattr(embedding, "size", ()))
        count = int(getattr(embedding, "longest", 0)) or self.leading + prod(grid)
        self.position = position.build(width=width, sequence=count, grid=grid, leading=self.leading)

    def through(self, model: Any, batch: dict[str, Tensor], y_BKE: Tensor, place_BK: Tensor, wanted_BU: Tensor) -> Tensor:
        """The decoder's outputs at the wanted positions, (B, U, E), from vectors y at other places; positions count the leading ones."""
        B, U = wanted_BU.shape
        hidden = self.hidden.weight.to(y_BKE.dtype).expand(B, U, -1)
        place = torch.cat([place_BK, wanted_BU], dim=1)
        x = torch.cat([y_BKE, hidden], dim=1) + self.position(place).to(y_BKE.dtype)
        context = Context(place, None, False, batch["rows"], batch["key"])
        found: Tensor = model.decoder.through(x, context)[:, -U:]
        return found


def entered(model: Any, h_BTD: Tensor) -> Tensor:
    """The encoder's output brought to the width of the decoder's blocks."""
    found: Tensor = h_BTD if model.decoder.enter is None else model.decoder.enter(h_BTD)
    return found


def known_grid(name: str, embedding: Any, batch: Mapping[str, Tensor]) -> tuple[int, ...]:
    """How positions are arranged, the leading ones left out. Raises UserError where it is not as the model was made for."""
    found, known = tuple(embedding.grid(batch)), tuple(embedding.size)
    if found != known:
        has, gives = (" x ".join(map(str, grid)) for grid in (known, found))
        raise UserError(
            f"{name} has positions for {has} places, and the data gives {gives}; leave out embedding.image, or give data of its size"
        )
    return found


def unfit_decoder(name: str, context: dict[str, Any]) -> Iterable[str]:
    """Why a model has no light decoder to fill in what is hidden."""
    graph = getattr(context.get("run"), "model", None)
    if graph is None:
        return
    if graph.decoder is None or not hasattr(graph.decoder.target, "through"):
        yield f"{name} needs a light decoder; set model.decoder, such as {{name: transformer, depth: 4, inner: 256, cross: null, mixer: ...}}"
    elif graph.decoder.knobs.get("cross") is not None:
        yield f"{name} hands the decoder what the encoder saw as its input; set model.decoder.cross to null"
    for place, stack in (("encoder", graph.encoder), ("decoder", graph.decoder)):
        if stack is not None and by_place(stack.knobs.get("mixer")):
            yield f"relative positions count places, and {name} gives the {place} a part of them; use another position there"


def refuse_padding(name: str, embedding: Any, fields: Mapping[str, Field] | None) -> None:
    """Raise UserError for an embedding whose grid is not known, or is not that of the data."""
    if not isinstance(getattr(embedding, "size", None), tuple):
        raise UserError(f"{name} needs an embedding whose positions form a grid of known size, such as patch")
    if fields and fields.keys() >= set(embedding.reads):
        known_grid(name, embedding, {key: torch.empty(1, *fields[key].shape, device="meta") for key in embedding.reads})
