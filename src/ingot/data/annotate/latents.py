r"""What frozen encoders make of every row, found once and read from then on instead of images, sounds or texts.   Vouitsis et al. 2024,
arXiv:2312.10144, section 4.1.

    latent_a = pool(f_a(row))        for every encoder a; f_a never changes

Rows keep their numbers (a class, a concept) and get ``latent_<name>`` in the place of all else, so nothing is decoded again.   Cost: one
forward of each encoder over all rows, once; 4 M bytes per row and encoder on disk, kept by content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...core.parts import Positive, Slot, part, section
from ...core.seams import Field


@section
@dataclass(kw_only=True)
class Frozen:
    """width: M of its latents. start: where it comes from: a run's folder, a checkpoint's, or ``hf:FOLDER``. embedding, encoder: what it
    is, where it is not started from anywhere; its weights are random then. pooling: which positions speak for a row. causal: whether it
    may not look ahead."""

    width: Positive[int]
    start: str | None = None
    embedding: Slot["nn.embedding"] | None = None
    encoder: Slot["model.encoder"] | None = None
    pooling: Literal["mean", "first", "last"] = "mean"
    causal: bool = False


@part
class Latents:
    """encoders: by name. batch: rows that go forward at once."""

    whole_rows = True

    def __init__(self, *, encoders: dict[str, Frozen], batch: Positive[int] = 64):
        self.encoders, self.batch = encoders, batch

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        for name, one in knobs["encoders"].items():
            if one.start is None and (one.embedding is None or one.encoder is None):
                yield f"the encoder {name!r} comes from nowhere: give its start, or its embedding and encoder"
            if one.start is not None and (one.embedding is not None or one.encoder is not None):
                yield f"the encoder {name!r} is that of {one.start}; leave out its embedding and encoder"
        run = context.get("run")
        if run is not None and run.data.views > 1:
            yield "latents are found of one look of a row; leave out data.views"

    @staticmethod
    def known_fields(knobs: Mapping[str, Any]) -> dict[str, Field]:
        """What rows get."""
        return {f"latent_{name}": Field((one.width,)) for name, one in knobs["encoders"].items()}
