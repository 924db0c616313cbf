"""Amounts with units, as recipes write them: ``20M tokens``, ``3e15 flops``, ``30 min``, ``2 GiB``, ``5%``.

A Quantity is a number and a canonical unit:

    tokens, rows, steps, epochs, flops    counts
    seconds                               wall-clock time
    audio_seconds                         length of audio (``2 h audio``)
    bytes                                 memory or disk
    fraction                              of the stage's budget (``5%`` is 0.05)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetPydanticSchema
from pydantic_core import PydanticCustomError, core_schema

from .errors import shown

_COUNT = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_NOUN = {
    "token": "tokens",
    "row": "rows",
    "image": "rows",
    "example": "rows",
    "sequence": "rows",
    "clip": "rows",
    "pair": "rows",
    "window": "rows",
    "step": "steps",
    "epoch": "epochs",
    "flop": "flops",
}
_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
_BYTES = (
    {"B": 1, "byte": 1}
    | {f"{p}B": 1000**i for i, p in enumerate("kMGT", 1)}
    | {"KB": 1000}
    | {f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)}
)
_SHAPE = re.compile(r"^\s*([0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([kKMGBTPE])?\s*([A-Za-z%]*)\s*(audio)?\s*$")


@dataclass(frozen=True)
class Quantity:
    """A non-negative amount and its canonical unit. ``str()`` writes it back the way a recipe would."""

    value: float
    unit: str

    def __str__(self) -> str:
        number = f"{self.value:.12g}"
        if self.unit == "fraction":
            return f"{self.value * 100:.12g}%"
        if self.unit == "audio_seconds":
            return f"{number} s audio"
        return f"{number} {'s' if self.unit == 'seconds' else 'B' if self.unit == 'bytes' else self.unit}"


def parse_quantity(text: Any) -> Quantity:
    """Read an amount. Raises ValueError with a sentence a user can act on."""
    if isinstance(text, Quantity):
        return text
    match = _SHAPE.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"wants an amount with its unit, such as '20M tokens' or '30 min', got {shown(text)}")
    number, prefix, noun, audio = match.groups()
    value = float(number.replace("_", ""))
    if value > 1e100:
        raise ValueError(f"wants an amount that can be spent, got {shown(text)}")
    if audio:
        seconds = _SECONDS.get(noun) or _SECONDS.get(noun.removesuffix("s"))
        if seconds is None:
            raise ValueError(f"wants a length of audio such as '2 h audio', got {shown(text)}")
        return Quantity(value * _COUNT[prefix or ""] * seconds, "audio_seconds")
    if noun == "%" and not prefix:
        return Quantity(value / 100, "fraction")
    if prefix and prefix + noun in _BYTES and not (prefix == "B" and noun):
        return Quantity(value * _BYTES[prefix + noun], "bytes")
    if not prefix and noun in _BYTES:
        return Quantity(value * _BYTES[noun], "bytes")
    if (not prefix and noun.lower() in _SECONDS) or (noun.lower().removesuffix("s") in _SECONDS and noun):
        scale = _SECONDS.get(noun.lower()) or _SECONDS[noun.lower().removesuffix("s")]
        return Quantity(value * _COUNT.get(prefix or "", 1.0) * scale, "seconds")
    singular = noun.lower().removesuffix("s")
    if singular in _NOUN:
        return Quantity(value * _COUNT[prefix or ""], _NOUN[singular])
    known = "tokens, rows (or images, examples), steps, epochs, flops, s/min/h/d, h audio, KiB/MiB/GiB, %"
    raise ValueError(f"has no known unit in {shown(text)}; the units are {known}")


def _quantity_type(wanted: str, *units: str) -> Any:
    def validate(value: Any) -> Quantity:
        if "fraction" in units and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return Quantity(float(value), "fraction")
        try:
            quantity = parse_quantity(value)
        except ValueError as error:
            raise PydanticCustomError("quantity", "{message}", {"message": str(error)}) from None
        if quantity.unit not in units:
            raise PydanticCustomError("quantity", "{message}", {"message": f"wants {wanted}, got {shown(value)}"})
        if quantity.value < 0:
            raise PydanticCustomError("quantity", "{message}", {"message": f"wants an amount of at least 0, got {shown(value)}"})
        return quantity

    schema = core_schema.no_info_plain_validator_function(validate, serialization=core_schema.to_string_ser_schema())
    return Annotated[Quantity, GetPydanticSchema(lambda source, handler: schema)]


Budget = _quantity_type(
    "a budget such as '20M tokens', '500 steps', '3e15 flops' or '30 min'",
    "tokens",
    "rows",
    "steps",
    "epochs",
    "flops",
    "seconds",
    "audio_seconds",
)
Batch = _quantity_type("a global batch such as '32k tokens', '256 images' or '60 s audio'", "tokens", "rows", "audio_seconds")
Span = _quantity_type(
    "a part of the stage such as '5%' (or 0.05), '200 steps' or '10M tokens'",
    "fraction",
    "tokens",
    "rows",
    "steps",
    "flops",
    "seconds",
    "audio_seconds",
)
Interval = _quantity_type("an interval such as '500 steps', '5%' or '10 min'", "fraction", "tokens", "rows", "steps", "flops", "seconds")
Every = _quantity_type("an amount of the whole run such as '1000 steps' or '50M tokens'", "tokens", "rows", "steps", "flops", "seconds")
Bytes = _quantity_type("an amount of memory such as '2 GiB'", "bytes")
