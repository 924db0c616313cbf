"""Numbers, times and recipes as people read them; every function returns text that is safe inside HTML."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from typing import Any

_KEY = re.compile(r"^(\s*(?:- )*)([^\s:#'\"][^:]*?|'[^']*'|\"[^\"]*\")(:)(?=\s|$)(.*)$")
_NUMBER = re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?( ?[A-Za-z%/]+)?$")


def safe(value: Any) -> str:
    """HTML-escaped text."""
    return html.escape(str(value), quote=True)


def count(value: float | None, unit: str = "") -> str:
    """``1.24 M``, ``32.8 B`` of things, ``3.5 PFLOP`` of a unit; a dash where there is none."""
    if value is None:
        return "–"
    if not unit and 1000 <= abs(value) < 100_000:
        return f"{value:,.0f}"
    giga = "G" if unit else "B"
    for size, prefix in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, giga), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{safe(unit)}"
    return f"{value:.3g} {safe(unit)}".rstrip()


def size(value: float | None) -> str:
    """Bytes in powers of 1024."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def duration(seconds: float | None) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 4 h``."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def moment(value: Any) -> str:
    """A time of day: seconds since 1970 as UTC, any text as it stands."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return safe(value or "")


def recipe_lines(text: str) -> str:
    """A YAML recipe with its keys, numbers, words and comments marked up by class."""
    return "\n".join(map(_recipe_line, text.rstrip().splitlines()))


def _recipe_line(line: str) -> str:
    if line.lstrip().startswith("#"):
        return f'<i class="c">{safe(line)}</i>'
    match = _KEY.match(line)
    if match:
        indent, key, colon, value = match.groups()
        return f'{indent}<b class="k">{safe(key)}</b>{colon}{_value(value)}'
    item = re.match(r"^(\s*- )(.*)$", line)
    return item[1] + _value(item[2]) if item else safe(line)


def _value(text: str) -> str:
    word = text.strip()
    if not word:
        return safe(text)
    kind = "n" if _NUMBER.match(word) else "w" if word in ("true", "false", "null", "[]", "{}") else "s"
    lead = text[: len(text) - len(text.lstrip())]
    return f'{lead}<span class="{kind}">{safe(word)}</span>'
