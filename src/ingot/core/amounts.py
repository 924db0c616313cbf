"""Amounts as people read them, the same on pages, in the terminal and in messages: 1.24 M, 3.5 PFLOP, 1.5 GiB, 2 h 07 min.

Three digits are shown; a dash stands for what is not known. A count with its noun behind it can be given back to a recipe.
"""

from __future__ import annotations

import math

_LARGE = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
UNKNOWN = "–"


def count(value: float | None, unit: str = "") -> str:
    """``4,000``, ``1.24 M``, ``32.8 B`` of things; ``3.5 PFLOP`` of a unit."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if not unit and 1000 <= abs(value) < 100_000:
        return f"{value:,.0f}"
    for scale, prefix in _LARGE:
        if _reaches(value, scale):
            return f"{_digits(value / scale)} {'B' if prefix == 'G' and not unit else prefix}{unit}"
    return f"{_digits(value)} {unit}".rstrip()


def size(value: float | None) -> str:
    """Bytes in powers of 1024."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for scale, unit in _BYTES:
        if _reaches(value, scale):
            return f"{_digits(value / scale)} {unit}"
    return f"{_digits(value)} B"


def duration(seconds: float | None) -> str:
    """``0.31 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 4 h``."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{_digits(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def money(amount: float) -> str:
    """An amount in the currency in which the price was given."""
    return f"{amount:.2f}" if amount >= 0.01 or amount == 0 else "under 0.01"


def _reaches(value: float, scale: float) -> bool:
    """Whether a value is one of a scale once it is rounded, so that nothing reads 1000 k."""
    return abs(value) >= 0.9995 * scale


def _digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
