r"""What frozen encoders make of every row, found once and read from then on instead of images, sounds or texts.   Vouitsis et al. 2024,
arXiv:2312.10144, section 4.1.

    latent_a = pool(f_a(row))        for every encoder a; f_a never changes

Rows keep their numbers (a class, a concept) and get ``latent_<name>`` in the place of all else but ``keep``, so nothing else is decoded
again.   Cost: one forward of each encoder over all rows, once; 4 M bytes per row and encoder on disk, kept by content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...core.frozen import Frozen
from ...core.parts import Positive, part
from ...core.seams import Field


@part
class Latents:
    """encoders: by name. keep: what rows hold beside latents and numbers, such as image where texts alone go through a frozen encoder
    (Zhai et al. 2022, LiT, arXiv:2111.07991). batch: rows that go forward at once."""

    whole_rows = True

    def __init__(self, *, encoders: dict[str, Frozen], keep: list[str] = [], batch: Positive[int] = 64):
        self.encoders, self.keep, self.batch = encoders, keep, batch

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        for name, one in knobs["encoders"].items():
            yield from one.unclear(f"encoder {name!r}")
        run = context.get("run")
        if run is None:
            return
        own = [one.data for one in run.stages if one.data is not None and one.annotate is not None and one.annotate.knobs is knobs]
        data = own[0] if own else run.data
        if data.views > 1:
            yield "latents are found of one look of a row; leave out data.views"
        mixing = [one.name for one in data.augment if getattr(one.target, "mixes", False)]
        if knobs["keep"] and mixing:
            yield f"{mixing[0]} blends rows, and would blend latents and what is kept with different ones; leave out one of the two"
        for one in data.augment:
            if (reads := one.knobs.get("of", getattr(one.target, "reads", None))) is not None and reads not in knobs["keep"]:
                yield f"{one.name} changes {reads}, which rows do not hold beside latents; name {reads} in keep, or leave out {one.name}"

    @staticmethod
    def known_fields(knobs: Mapping[str, Any]) -> dict[str, Field]:
        """What rows get."""
        return {f"latent_{name}": Field((one.width,)) for name, one in knobs["encoders"].items()}
