r"""What frozen encoders make of every row, found once and read from then on instead of images, sounds or texts.   Vouitsis et al. 2024,
arXiv:2312.10144, section 4.1.

    latent_a = pool(f_a(row))        for every encoder a; f_a never changes

Rows keep their numbers (a class, a concept) and get ``latent_<name>`` in the place of all else, so nothing is decoded again.   Cost: one
forward of each encoder over all rows, once; 4 M bytes per row and encoder on disk, kept by content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...core.frozen import Frozen
from ...core.parts import Positive, part
from ...core.seams import Field


@part
class Latents:
    """encoders: by name. batch: rows that go forward at once."""

    whole_rows = True

    def __init__(self, *, encoders: dict[str, Frozen], batch: Positive[int] = 64):
        self.encoders, self.batch = encoders, batch

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        for name, one in knobs["encoders"].items():
            yield from one.unclear(f"encoder {name!r}")
        run = context.get("run")
        if run is not None and run.data.views > 1:
            yield "latents are found of one look of a row; leave out data.views"

    @staticmethod
    def known_fields(knobs: Mapping[str, Any]) -> dict[str, Field]:
        """What rows get."""
        return {f"latent_{name}": Field((one.width,)) for name, one in knobs["encoders"].items()}
