"""The composition matrix as a page of the documentation, from what was measured (benchmarks/results/composition.json).

A result is ``{part: {column: cell}}``; a cell has a verdict (equal, tolerance, refused; differs, late and crash are defects), where
there is one the largest difference measured, and a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Cell = Mapping[str, Any]
COLUMNS = {
    "accumulation": "accumulation",
    "replicate": "2 ranks",
    "fsdp": "FSDP2",
    "compile": "compile",
    "bf16": "bf16",
    "resume": "resume",
    "checkpointing": "activation checkpointing",
    "wider": "grown wider",
    "deeper": "grown deeper",
    "fused_backward": "fused backward",
}
WORDS = {"equal": "equal", "refused": "refused", "differs": "**differs**", "late": "**refused late**", "crash": "**fails**"}
HEAD = """\
# What goes with what

Every part in a small run, under everything that must not change what it computes. The page is generated:
`python benchmarks/composition.py` measures, `--write-docs` writes; how a cell is measured says `tests/conformance/_matrix.py`.

- **equal**: to the bit. **equal to 3e-16**: the largest relative difference of a tensor, in fp64, between the plain run and this one.
- **refused**: by the static check, before anything starts; the sentences are below each table.
- a number in brackets behind *equal*: the sentence below the table says what could not be carried along.
- **not run**: not measured yet.

The run has 7 rows a step, which neither two ranks nor micro-batches of 3 divide, and 5 steps. Gradients of one window are compared to
1e-9 and weights at the end to 1e-6, since AdamW hides a gradient of the wrong size; under bf16 the loss of every step against fp32's, to
2 % (15 % for `clip`, `contrastive` and `self_distillation`, whose temperatures multiply the rounding of a similarity). *resume* stops
after step 3 and a new run goes on from the checkpoint, optimizer state compared too. *grown* widens the model or puts blocks into it after
step 2, optimizer state carried but where a sentence says that it starts afresh: the number is how far the loss moves. *fused backward*
updates each weight inside the backward pass. *compile* is `torch.compile` with the code it generates for this machine. A row such as
`galore: 8 bits` is the part with other settings than its defaults.

How to choose: [optimizers](optimizers.md), [linears](linears.md), [experts](moe.md), [growth](growth.md). A part's own page, with its
equations and its row of these tables: `ingot parts --pages methods`.
"""


def words(cell: Cell | None, note: str = "") -> str:
    """A cell in words. note: the number of its sentence."""
    if cell is None:
        return "not run"
    if cell["verdict"] == "tolerance":
        return f"equal to {cell['measured']:.0e}{note}"
    return WORDS[cell["verdict"]] + note


def row(cells: Mapping[str, Cell]) -> str:
    """A part's cells in one sentence, with the reasons of refusals and of what was not carried."""
    return "; ".join(
        f"{title} {words(cells.get(name))}"
        + (f" ({' '.join(cells[name]['reason'].split())})" if name in cells and cells[name].get("reason") else "")
        for name, title in COLUMNS.items()
    )


def page(results: Mapping[str, Mapping[str, Cell]], pairs: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None) -> str:
    """The whole page. pairs: further tables, title -> row -> column -> words."""
    slots: dict[str, list[str]] = {}
    for part in sorted(results):
        slots.setdefault(part.partition("/")[0], []).append(part)
    cells = [cell for found in results.values() for cell in found.values()]
    counted = {verdict: sum(cell["verdict"] == verdict for cell in cells) for verdict in ("equal", "tolerance", "refused")}
    wrong = len(cells) - sum(counted.values())
    lines = [
        HEAD,
        f"{len(results)} parts, {len(cells)} cells measured: {counted['equal']} equal, {counted['tolerance']} equal to rounding, {counted['refused']} refused, {wrong} wrong; "
        f"{len(results) * len(COLUMNS) - len(cells)} not run. {sum('sources' in cell for cell in cells)} cells carry a hash of the sources that "
        "they depend on; `python benchmarks/composition.py --stale` counts those that have to be measured again.",
        "",
    ]
    for slot, parts in slots.items():
        lines += [f"## {slot}", "", *_table(results, parts), ""]
    for title, found in (pairs or {}).items():
        lines += [f"## {title}", "", *_pairs(found), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(results: Mapping[str, Mapping[str, Cell]], parts: list[str]) -> list[str]:
    sentences: dict[str, int] = {}
    lines = ["| part | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for part in parts:
        shown = []
        for name in COLUMNS:
            cell = results[part].get(name)
            said = "" if cell is None else " ".join(str(cell.get("reason", "")).split())  # of growing, what could not be carried too
            note = f" ({sentences.setdefault(said, len(sentences) + 1)})" if said else ""
            shown.append(words(cell, note))
        lines.append(f"| `{part.partition('/')[2]}` | " + " | ".join(shown) + " |")
    return lines + ([""] if sentences else []) + [f"{number}. {sentence}" for sentence, number in sentences.items()]


def _pairs(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    columns = list(dict.fromkeys(name for cells in found.values() for name in cells))
    return [
        "| | " + " | ".join(f"`{name}`" for name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| `{name}` | " + " | ".join(cells.get(other, "not run") for other in columns) + " |" for name, cells in found.items()),
    ]
