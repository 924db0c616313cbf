"""List the parts that a recipe can name, or explain one.

A slot is where a part goes (optim, nn.mixer, ...); a part is one file. Explaining a part shows its equations, its knobs with
their defaults, the wiring that it is handed, and where it is.

$ ingot parts
$ ingot parts optim
$ ingot parts optim/adamw
$ ingot parts --pages methods
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ._output import Output

if TYPE_CHECKING:
    from pathlib import Path

    from ..core.parts import Entry


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", nargs="?", metavar="SLOT[/NAME]", help="a slot, or a part of it; all slots when left out")
    parser.add_argument("--pages", metavar="FOLDER", help="write a page for every part: equation, cost, state, composition, recipes")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.parts import parts_in
    from ..core.seams import SLOTS

    if arguments.pages:
        return write_pages(arguments.pages, output)
    if arguments.which and "/" in arguments.which:
        return explain(*arguments.which.split("/", 1), output)
    slots = [arguments.which] if arguments.which else list(SLOTS)
    if slots[0] not in SLOTS:
        return explain_by_name(slots[0], output)
    listing = {slot: parts_in(slot) for slot in slots}
    width = max((len(name) for parts in listing.values() for name in parts), default=0)
    for slot, parts in listing.items():
        if parts or arguments.which:
            output.print(f"{slot}: {SLOTS[slot].purpose}", *(f"  {name:<{width}}  {title(entry)}" for name, entry in parts.items()), "")
    count = sum(map(len, listing.values()))
    output.print(f"{count} part{'s' * (count != 1)}. 'ingot parts SLOT/NAME' explains one.")
    output.result({slot: {name: entry.summary for name, entry in parts.items()} for slot, parts in listing.items()})
    return 0


def title(entry: Entry) -> str:
    """The part's title without its citation, which its file sets off by three spaces."""
    return entry.summary.partition("   ")[0]


def explain_by_name(name: str, output: Output) -> int:
    """A bare part name, where no slot has that name. Raises UserError when no part has it either, or several slots do."""
    from ..core.errors import UserError
    from ..core.parts import parts_in
    from ..core.resolve import nearest
    from ..core.seams import SLOTS

    holding = [slot for slot in SLOTS if name in parts_in(slot)]
    if len(holding) == 1:
        return explain(holding[0], name, output)
    if holding:
        raise UserError(f"several slots have a part {name!r}: {', '.join(f'{slot}/{name}' for slot in holding)}")
    near = nearest(name, [*SLOTS, *(part for slot in SLOTS for part in parts_in(slot))])
    raise UserError(f"no slot or part named {name!r}. {near or 'Slots: ' + ', '.join(SLOTS)}")


def explain(slot: str, name: str, output: Output) -> int:
    """One part in full. Raises UserError for an unknown one."""
    from ..core.errors import UserError
    from ..core.parts import parts_in, signature
    from ..core.resolve import nearest
    from ..core.seams import SLOTS

    if slot not in SLOTS:
        raise UserError(f"no slot named {slot!r}. {nearest(slot, SLOTS) or 'Slots: ' + ', '.join(SLOTS)}")
    if name not in parts_in(slot):
        raise UserError(f"no part named {name!r} in {slot}. {nearest(name, parts_in(slot)) or 'It has: ' + ', '.join(parts_in(slot))}")
    entry = parts_in(slot)[name]
    found = signature(entry.load())
    knobs = [
        {"name": knob, "wants": _wants(annotation), "default": _default(default)} for knob, (annotation, default) in found.knobs.items()
    ]
    wiring = {wire: SLOTS[slot].wiring.get(wire, "") for wire in found.wiring}
    output.print(f"{slot}/{name}     {found.where}", "", *_document(entry, found.target), "")
    if knobs:
        output.table(("knob", "wants", "default"), [(knob["name"], knob["wants"], knob["default"]) for knob in knobs], words=3)
    output.print(*([""] if knobs else []), *(f"is handed {wire}: {meaning or '-'}" for wire, meaning in wiring.items()))
    output.print("", "in a recipe:", f"  {_sample(name, knobs)}")
    output.result({"slot": slot, "name": name, "summary": entry.summary, "where": found.where, "knobs": knobs, "wiring": wiring})
    return 0


def write_pages(folder: str, output: Output) -> int:
    """The parts' pages, with the recipes and the measured matrix of the checkout where there is one."""
    import json
    from pathlib import Path

    from ..core.parts import ROOT
    from ..report.methods import pages

    checkout, place = ROOT.parent.parent, Path(folder)
    measured = checkout / "benchmarks" / "results" / "composition.json"
    composition = json.loads(measured.read_text(encoding="utf-8")) if measured.is_file() else {}
    count = 0
    for name, text in pages(recipes_of(checkout), composition):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
        count += 1
    output.print(f"{count} pages in {place}")
    output.result({"folder": str(place), "pages": count})
    return 0


def recipes_of(checkout: Path) -> dict[tuple[str, str], list[str]]:
    """The recipes, with their tiny twins, that use each part."""
    from ..build.schema import RunSection
    from ..core.parts import walk_specs
    from ..core.recipe import load
    from ..core.resolve import try_resolve

    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted((checkout / "recipes").rglob("*.yaml")):
        sections = [try_resolve(load(path, tiny=tiny), RunSection)[0] for tiny in (False, True)]
        for key in {(spec.slot, spec.name) for section in sections for _, spec in walk_specs(section)}:
            found.setdefault(key, []).append(str(path.relative_to(checkout)))
    return found


def _wants(annotation: Any) -> str:
    from ..core.resolve import slot_of, wants

    return f"a part of {slot}" if (slot := slot_of(annotation)) else wants(annotation)


def _default(default: Any) -> str:
    import inspect

    return "must be set" if default is inspect.Parameter.empty else "nothing" if default is None else str(default)


def _document(entry: Entry, target: Any) -> list[str]:
    import ast
    import inspect

    of_file = ast.get_docstring(ast.parse(entry.path.read_text(encoding="utf-8"))) if entry.path else None
    of_part = inspect.getdoc(target) if target.__doc__ else None
    return "\n\n".join(filter(None, (of_file, of_part))).splitlines() or [entry.summary]


def _sample(name: str, knobs: list[dict[str, str]]) -> str:
    wanted = [knob["name"] for knob in knobs if knob["default"] == "must be set"]
    return f"{{name: {name}, {', '.join(f'{knob}: ...' for knob in wanted)}}}" if wanted else name
