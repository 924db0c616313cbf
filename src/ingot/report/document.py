"""The frame of every page that Ingot writes: one HTML file that needs no network and no other file."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from .text import safe

_DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; {policy}img-src data:">
<link rel="icon" href="data:,">
<title>{title} · Ingot</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
{after}
</body>
</html>
"""


def document(title: str, body: str, *, data: str = "", style: str = "", script: str = "") -> str:
    """A whole page in the style of the reports. body: HTML. data: what ``kept`` gives. style: CSS beside the common one. script: run last."""
    style = (files(__package__) / "page.css").read_text(encoding="utf-8") + style
    after = "\n".join(filter(None, (data, f"<script>\n{script}</script>" if script else "")))
    return _DOCUMENT.format(title=safe(title), policy="script-src 'unsafe-inline'; " if script else "", style=style, body=body, after=after)


def kept(identity: str, data: Any, *, allow_nan: bool = True) -> str:
    """Data inside of a page, for its script or for other programs."""
    # "<" never appears literally, so that no text inside can end the script element.
    return f'<script type="application/json" id="{identity}">' + json.dumps(data, allow_nan=allow_nan).replace("<", "\\u003c") + "</script>"
