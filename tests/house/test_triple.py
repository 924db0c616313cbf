"""A method is a triple: the part, its test, a recipe that uses it."""

from __future__ import annotations

import typing
from functools import cache
from pathlib import Path

import pytest

from ingot.build.schema import RunSection
from ingot.core.parts import load, parts_in, signature, walk_specs
from ingot.core.recipe import load as read
from ingot.core.resolve import slot_of, try_resolve
from ingot.core.seams import SLOTS

ROOT = Path(__file__).resolve().parents[2]
PARTS = [(slot, name) for slot in SLOTS for name, entry in parts_in(slot).items() if entry.path is not None]


@cache
def used() -> set[tuple[str, str]]:
    """Every part that some recipe, or its tiny twin, resolves to."""
    found: set[tuple[str, str]] = set()
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        for tiny in (False, True):
            section, _ = try_resolve(read(path, tiny=tiny), RunSection)
            found |= {(spec.slot, spec.name) for _, spec in walk_specs(section)}
    return found


@cache
def nameable() -> set[str]:
    """Slots that a recipe can reach: from its sections, and through the knobs of the parts of slots that it reaches."""
    reached: set[str] = set()

    def visit(annotation: typing.Any) -> None:
        slot = slot_of(annotation)
        if slot is not None and slot not in reached:
            reached.add(slot)
            for name in parts_in(slot):
                for knob, _ in signature(load(slot, name)).knobs.values():
                    visit(knob)
        if hasattr(annotation, "__ingot_section__"):
            for knob, _ in signature(annotation).knobs.values():
                visit(knob)
        for inner in typing.get_args(annotation):
            visit(inner)

    visit(RunSection)
    return reached


@pytest.mark.parametrize(("slot", "name"), PARTS, ids=lambda value: value)
def test_has_its_test(slot: str, name: str) -> None:
    assert (ROOT / "tests" / slot.replace(".", "/") / f"test_{name}.py").is_file()


@pytest.mark.parametrize(("slot", "name"), PARTS, ids=lambda value: value)
def test_has_a_recipe(slot: str, name: str) -> None:
    if slot not in nameable():
        pytest.skip(f"no recipe can name a part of {slot}")
    assert (slot, name) in used(), f"no recipe under recipes/ uses {slot} {name!r}"


@pytest.mark.parametrize(("slot", "name"), PARTS, ids=lambda value: value)
def test_explains_itself(slot: str, name: str) -> None:
    assert len(parts_in(slot)[name].summary) > 10, "the first line of the file says what the part is"
