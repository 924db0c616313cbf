"""Words, moments and recipes as pages show them; every function returns text that is safe inside HTML."""

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
