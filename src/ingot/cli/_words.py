"""Amounts as people read them: 1 h 05 min, 12.3k, 1.2 GiB."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """A time in at most two units."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def count(number: float) -> str:
    """A count with a decimal prefix: 950, 12.3k, 4.56M, 1.2e+19."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{prefix}" if number < 1e15 else f"{number:.3g}"
    return f"{number:.3g}" if isinstance(number, float) else str(number)


def size(number: float) -> str:
    """Bytes with a binary prefix."""
    for scale, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(number) >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number:.0f} B"


def money(amount: float) -> str:
    """An amount in the currency in which the price was given."""
    return f"{amount:.2f}" if amount >= 0.01 or amount == 0 else "under 0.01"
