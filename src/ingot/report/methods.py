"""A page for every part, from its docstring: equation, cost, state, knobs, composition row, source, and the recipes that use it.

ingot parts --pages methods
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.parts import Entry, parts_in, signature
from ..core.resolve import slot_of, wants
from ..core.seams import SLOTS
from .composition import row

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
MOST = 8  # recipes named
FACT = re.compile(r"\b(State|Cost):\s+(.*?)(?=\s{2,}\b[A-Z]\w*:\s|\n\s*\n|\n[A-Z]\w*:\s|\Z)", re.S)


def document(entry: Entry) -> str:
    """The docstring of a part's file; empty for a part of another package."""
    if entry.path is None:
        return ""
    return (ast.get_docstring(ast.parse(entry.path.read_text(encoding="utf-8")), clean=False) or "").strip()


def facts(text: str) -> dict[str, str]:
    """What a docstring says after ``State:`` and ``Cost:``, as one line each."""
    return {name: " ".join(words.split()) for name, words in FACT.findall(text)}


def title(entry: Entry) -> tuple[str, str]:
    """Title and source of a part, which its first line sets apart by three spaces; the source goes on to the end of the paragraph."""
    name, _, source = document(entry).partition("\n\n")[0].partition("   ")
    return " ".join(name.split()).rstrip("."), " ".join(source.split())


def page(
    entry: Entry, recipes: Sequence[str], composition: Mapping[str, Any] | None, variants: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """One part's page, in Markdown. composition: its cells by column. variants: further rows, by what they are of."""
    target = entry.load()
    found, text = signature(target), document(entry)
    name, source = title(entry)
    body = text.partition("\n\n")[2]
    own = inspect.getdoc(target) if target.__doc__ else ""
    cited = sorted(set(ARXIV.findall(text)))
    knobs = [
        f"| `{knob}` | {_cell(_wants(annotation))} | {_cell(_default(default))} |" for knob, (annotation, default) in found.knobs.items()
    ]
    lines = [
        f"# {name}",
        "",
        f"`{entry.slot}/{entry.name}` · {found.where.partition(':')[0]}",
        "",
        *([source, ""] if source else []),
        body,
        "",
    ]
    lines += [own or "", ""] if own else []
    lines += ["| knob | wants | default |", "|---|---|---|", *knobs, ""] if knobs else []
    lines += [f"**{fact}.** {words}\n" for fact, words in facts(text).items()]
    lines += [f"**Composition.** {row(composition)}\n"] if composition else []
    lines += [f"**Composition, {label}.** {row(cells)}\n" for label, cells in (variants or {}).items()]
    shown = [*(f"`{path}`" for path in recipes[:MOST]), *([f"and {len(recipes) - MOST} more"] if len(recipes) > MOST else [])]
    lines += ["**Recipes.** " + ", ".join(shown) + "\n"] if recipes else []
    lines += ["**Read.** " + ", ".join(f"[arXiv:{number}](https://arxiv.org/abs/{number})" for number in cited) + "\n"] if cited else []
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def pages(used: Mapping[tuple[str, str], Sequence[str]], composition: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(file name, text) of an index and of every part. used: recipes by (slot, part); composition: cells by ``slot/part``,
    and by ``slot/part: variant``."""
    index = ["# Methods", ""]
    for slot, info in SLOTS.items():
        entries = [entry for entry in parts_in(slot).values() if entry.path is not None]
        index += [
            f"## {slot}: {info.purpose}",
            "",
            *(f"- [{entry.name}]({slot}/{entry.name}.md): {title(entry)[0]}" for entry in entries),
            "",
        ]
        for entry in entries:
            key = f"{slot}/{entry.name}"
            variants = {name.partition(": ")[2]: cells for name, cells in composition.items() if name.startswith(f"{key}: ")}
            yield f"{key}.md", page(entry, used.get((slot, entry.name), ()), composition.get(key), variants)
    yield "index.md", "\n".join(index)


def _wants(annotation: Any) -> str:
    slot = slot_of(annotation)
    return f"a part of {slot}" if slot else wants(annotation)


def _default(default: Any) -> str:
    return "must be set" if default is inspect.Parameter.empty else "nothing" if default is None else str(default)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
