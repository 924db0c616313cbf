"""The composition root: a recipe becomes a run. The package is its own front door: ``ingot.build(recipe)`` is build.run.build."""

from __future__ import annotations

from ..core.front_door import answer_calls

answer_calls(__name__, "ingot.build.run", "build")
