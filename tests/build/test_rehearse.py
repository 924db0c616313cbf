"""The rehearsal lives through a run in small, and turns whatever fails into a problem."""

from __future__ import annotations

from typing import Any

import pytest

from ingot.build.rehearse import STEPS, rehearse
from ingot.core.parts import load


def test_a_good_recipe_is_lived_through(tiny_recipe: Any) -> None:
    found = rehearse(tiny_recipe())
    assert found["problems"] == [] and found["steps"] == STEPS
    assert set(found["evaluation"]) == {"left", "right"} and found["bytes"] > 1000


def test_the_average_that_a_run_is_opened_with_is_what_was_saved(tiny_recipe: Any) -> None:
    assert rehearse(tiny_recipe({"stages": {0: {"hooks": ["ema"]}}}))["problems"] == []


def test_what_fails_is_a_problem_and_not_a_traceback(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise IndexError("the planted fault")

    monkeypatch.setattr(load("optim", "adamw"), "step", broken)
    found = rehearse(tiny_recipe())
    assert [str(problem) for problem in found["problems"]] == ["rehearsal: one step of the tiny twin fails: IndexError: the planted fault"]


def test_weights_that_do_not_come_back_are_noticed(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.build.run import Run

    kept = Run.load_weights

    def forgetful(self: Run, path: Any = None) -> Any:
        found = kept(self, path)
        next(self.model.parameters()).data.add_(1.0)
        return found

    monkeypatch.setattr(Run, "load_weights", forgetful)
    assert any("not those that were saved" in str(problem) for problem in rehearse(tiny_recipe())["problems"])
