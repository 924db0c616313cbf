"""Everything wrong with a recipe is found at once: wrong values, and the rules between those parts that can be judged all the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.build.check import check
from ingot.build.schema import RunSection
from ingot.core.parts import Spec, walk_specs
from ingot.core.recipe import Recipe, load
from ingot.core.resolve import UNRESOLVED, Unresolved, partly_resolve, try_resolve

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "text" / "gpt_tiny.yaml"


def found(*overrides: str) -> list[str]:
    """The places of all problems, in order."""
    return [problem.where for problem in check(load(RECIPE, overrides, tiny=True))[1]]


MIXED: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "a value and a rule inside the model": (("model.encoder.mixer.heads=5", "seed=x"), ["seed", "model.encoder.mixer"]),
    "a value and a rule of a stage": (("stages.0.budget=0 steps", "data.holdout=2"), ["data.holdout", "stages.0.budget"]),
    "a misspelt knob of the same section": (("stages.0.budget=0 steps", "stages.0.bacth=4 rows"), ["stages.0.bacth", "stages.0.budget"]),
    "a part that does not exist beside one that does not fit": (
        ("stages.0.optimizer=adamv", "model.encoder.mixer.heads=5"),
        ["stages.0.optimizer", "model.encoder.mixer"],
    ),
    "three sections": (
        ("model.encoder.norm=rmz", "data.views=2", "name=a/b", "stages.0.hooks=[clip,clip]"),
        ["model.encoder.norm", "name", "data.views", "stages.0.hooks"],
    ),
    "a schedule of a knob that is not there, beside a schedule that is wrong": (
        ("stages.0.schedule.betaz=cosine", "stages.0.schedule.lr={name: cosine, warmup: soon}"),
        ["stages.0.schedule.lr.warmup", "stages.0.schedule.betaz"],
    ),
}


@pytest.mark.parametrize("case", MIXED)
def test_wrong_values_hide_no_rule(case: str) -> None:
    overrides, wanted = MIXED[case]
    assert found(*overrides) == wanted


UNKNOWN: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "heads against a width that is no number": (("model.width=wide", "model.encoder.mixer.heads=5"), ["model.width"]),
    "a tokenizer under a wrong name": (("data.tokenizer=bitez",), ["data.tokenizer"]),
    "a hold-out under a misspelt name": (("data.holdot=1.0",), ["data.holdot"]),
    "a side loss of a layer that is misspelt": (
        ("model.encoder.feedforward=moee", "stages.0.side={balance: 0.01}"),
        ["model.encoder.feedforward"],
    ),
    "a batch of rows of an unknown length": (("data.sequence=long", "stages.0.batch=1 tokens"), ["data.sequence"]),
    "stages that are no list": (("stages=3",), ["stages"]),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_no_rule_judges_by_what_is_not_known(case: str) -> None:
    overrides, wanted = UNKNOWN[case]
    assert found(*overrides) == wanted


def test_a_recipe_with_wrong_values_gives_no_section() -> None:
    assert check(load(RECIPE, ["seed=x"], tiny=True))[0] is None
    assert check(load(RECIPE, ["stages.0.budget=0 steps"], tiny=True))[0] is not None


def test_a_bug_in_a_rule_is_not_hidden_where_all_values_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(knobs: dict[str, Any], context: dict[str, Any]) -> list[str]:
        raise ZeroDivisionError

    section, _ = check(load(RECIPE, tiny=True))
    assert section is not None
    monkeypatch.setattr(section.stages[0].optimizer.target, "check", staticmethod(broken), raising=False)
    with pytest.raises(ZeroDivisionError):
        found()
    assert found("seed=x") == ["seed"]


def test_what_resolves_in_part_is_what_resolves_whole() -> None:
    recipe = load(RECIPE, tiny=True)
    assert partly_resolve(recipe, RunSection) == try_resolve(recipe, RunSection)
    section, problems = partly_resolve(Recipe(recipe.tree | {"seed": "x"}), RunSection)
    assert [problem.where for problem in problems] == ["seed"] and section.seed is UNRESOLVED
    assert section.model == try_resolve(recipe, RunSection)[0].model


QUESTIONS: dict[str, Callable[[], Any]] = {
    "truth": lambda: bool(UNRESOLVED),
    "type": lambda: isinstance(UNRESOLVED, Spec),
    "attribute": lambda: UNRESOLVED.name,
    "perhaps an attribute": lambda: hasattr(UNRESOLVED, "check"),
    "a default for an attribute": lambda: getattr(UNRESOLVED, "check", None),
    "equality": lambda: UNRESOLVED == 3,
    "equality from the other side": lambda: UNRESOLVED == "auto",
    "order": lambda: UNRESOLVED > 3,
    "arithmetic": lambda: 7 % UNRESOLVED,
    "length": lambda: len(UNRESOLVED),
    "content": lambda: "x" in UNRESOLVED,
    "place": lambda: operator.getitem(UNRESOLVED, "x"),
    "text": lambda: f"{UNRESOLVED}",
    "round": lambda: list(UNRESOLVED),
    "parts inside": lambda: list(walk_specs({"a": UNRESOLVED})),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_whatever_is_asked_of_what_is_not_known_is_noticed(question: str) -> None:
    with pytest.raises(Unresolved):
        QUESTIONS[question]()
