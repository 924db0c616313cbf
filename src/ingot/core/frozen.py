"""A frozen encoder that a recipe names: that of another run, of a Hugging Face folder, or one with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .parts import Positive, Slot, section


@section
@dataclass(kw_only=True)
class Frozen:
    """width: M of what it gives. start: where it comes from: a run's folder, a checkpoint's, or ``hf:FOLDER``. embedding, encoder: what it
    is, where it is not started from anywhere; its weights are random then. pooling: which positions speak for a row. causal: whether it
    may not look ahead."""

    width: Positive[int]
    start: str | None = None
    embedding: Slot["nn.embedding"] | None = None
    encoder: Slot["model.encoder"] | None = None
    pooling: Literal["mean", "first", "last"] = "mean"
    causal: bool = False

    def unclear(self, name: str) -> Iterable[str]:
        """Why it cannot be told which encoder is meant. name: what to call it."""
        if self.start is None and (self.embedding is None or self.encoder is None):
            yield f"the {name} comes from nowhere: give its start, or its embedding and encoder"
        if self.start is not None and (self.embedding is not None or self.encoder is not None):
            yield f"the {name} is that of {self.start}; leave out its embedding and encoder"
