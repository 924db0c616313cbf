"""Checking recipes: every problem at once, with place, nearest name and signature; complete Specs when there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.core.errors import UserError
from ingot.core.parts import Positive, Slot, Spec, plain, section, signature, walk_specs
from ingot.core.progress import Moment
from ingot.core.quantities import Budget, Quantity
from ingot.core.recipe import parse
from ingot.core.resolve import resolve, spec, try_resolve


@section
@dataclass(kw_only=True)
class Inner:
    budget: Budget
    curve: Slot["schedule"] | None = None
    curves: dict[str, Slot["schedule"]] = field(default_factory=dict)
    mode: Literal["a", "b"] = "a"
    size: Positive[int] | Literal["auto"] = "auto"


@section
@dataclass(kw_only=True)
class Outer:
    name: str
    items: list[Inner]
    flag: bool = False
    inner: Inner | None = None


def problems(text: str) -> list[str]:
    return [str(item) for item in try_resolve(parse(text, "r.yaml"), Outer)[1]]


def test_all_problems_are_found_at_once_with_their_lines() -> None:
    found = problems(
        "nam: x\nitems:\n  - budget: 3\n    curve: cosin\n  - budget: 1 steps\n    curve: {name: cosine, warmpu: 1%}\n    mode: c\n    size: -1\nflag: 3\n"
    )
    text = "\n".join(found)
    for expected in (
        "r.yaml:1  nam: this section takes no 'nam'. Did you mean 'name'?",
        "needs 'name'",
        "r.yaml:3  items.0.budget: wants an amount with its unit",
        "r.yaml:4  items.0.curve: no part named 'cosin' in schedule. Did you mean 'cosine'?",
        "cosine takes no 'warmpu'. Did you mean 'warmup'?",
        "r.yaml:7  items.1.mode: wants one of a, b, got 'c'",
        "items.1.size: wants a whole number above 0 or one of auto, got -1",
        "flag: wants true or false, got 3",
    ):
        assert expected in text
    assert len(found) == 8
    assert "cosine(warmup=" in text and "schedule/cosine.py:" in text


def test_a_good_recipe_becomes_complete_specs() -> None:
    outer: Outer = resolve(parse("name: x\nitems:\n  - budget: 5 steps\n    curves: {lr: {name: cosine, final: 0}}\n", "r.yaml"), Outer)
    curve = outer.items[0].curves["lr"]
    assert curve == Spec("schedule", "cosine", {"warmup": Quantity(0.01, "fraction"), "final": 0.0})
    assert outer.items[0].budget == Quantity(5, "steps")
    assert [path for path, _ in walk_specs(outer)] == ["items.0.curves.lr"]
    again = resolve(parse(__import__("yaml").safe_dump(plain(outer)), "again.yaml"), Outer)
    assert plain(again) == plain(outer)


def test_defaults_are_not_shared_between_recipes() -> None:
    first, second = (resolve(parse("name: x\nitems: [{budget: 1 steps}]\n", "r.yaml"), Outer) for _ in range(2))
    first.items[0].curves["lr"] = 1
    assert second.items[0].curves == {}


def test_build_passes_the_wiring_that_the_part_names_and_demands_what_it_needs() -> None:
    curve = spec("schedule", "cosine", warmup="0%", final=0.5)
    from ingot.core.progress import Progress

    moment = Moment(Progress(steps=10), Quantity(10, "steps"))
    assert curve.build(moment=moment, anything_else=1) == pytest.approx(0.5)
    with pytest.raises(TypeError, match="needs wiring"):
        curve.build()
    assert list(signature(curve.target).wiring) == ["moment"]


def test_from_python_the_same_errors() -> None:
    with pytest.raises(UserError, match="Did you mean 'final'"):
        spec("schedule", "cosine", finl=1)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=6) | st.sampled_from(["cosine", "5 steps", "name", "items"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["name", "items", "budget", "curve", "curves", "mode", "x"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_no_data_whatever_raises_anything_else(tree: Any) -> None:
    import yaml

    try:
        recipe = parse(yaml.safe_dump({"items": tree, "name": tree} if not isinstance(tree, dict) else tree), "fuzz")
    except UserError:
        return
    value, found = try_resolve(recipe, Outer)
    assert (value is None) == bool(found)
