"""Compilation is kept only where measured to pay; every refusal says why."""

from __future__ import annotations

from typing import Any

import pytest

import ingot
from ingot.build import compile_probe


def decide(recipe: Any) -> tuple[bool, str]:
    run = ingot.build(recipe)
    return compile_probe.choose_compile(run, run.state(), run.section.compile)


def test_switched_off_or_too_short_it_stays_off(tiny_recipe: Any) -> None:
    assert decide(tiny_recipe()) == (False, "switched off in the recipe")
    for budget in ("12 steps", "1 s", "5k tokens", "2 epochs", "100 rows"):
        enabled, why = decide(tiny_recipe({"compile": "auto", "stages": {0: {"budget": budget}}}))
        assert not enabled and "too short to win back" in why


def test_without_a_compiler_it_says_so(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_probe.shutil, "which", lambda name: None)
    assert decide(tiny_recipe({"compile": True})) == (False, "no C++ compiler was found")


@pytest.mark.parametrize(
    ("times", "losses", "expected"), [((1.0, 0.5), (2.0, 2.0), True), ((1.0, 0.99), (2.0, 2.0), False), ((1.0, 0.5), (2.0, 2.2), False)]
)
def test_the_verdict_follows_the_measurements(
    tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch, times: Any, losses: Any, expected: bool
) -> None:
    run = ingot.build(tiny_recipe({"compile": "auto", "stages": {0: {"budget": "100k steps"}}}))
    plain = run.model
    monkeypatch.setattr(type(plain), "compile_blocks", lambda self: None)
    monkeypatch.setattr(compile_probe, "_time", lambda model, batch, repeats: (times[0 if model is plain else 1], losses[0]))
    monkeypatch.setattr(compile_probe, "_loss", lambda model, batch: losses[0 if model is plain else 1])
    enabled, why = compile_probe.choose_compile(run, run.state(), "auto")
    assert enabled is expected and ("faster" in why or "differs" in why or "wins" in why)
