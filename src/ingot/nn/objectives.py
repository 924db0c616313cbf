"""The objectives of a run as the checks of its layers ask for them, those inside of others among them."""

from __future__ import annotations

from typing import Any

from ..core.parts import Spec, walk_specs


def objectives(context: dict[str, Any]) -> list[Spec]:
    """The model's, the stages', and all that these are made of."""
    run = context.get("run")
    return [] if run is None else inside([run.model.objective, *(stage.objective for stage in run.stages)])


def inside(value: Any) -> list[Spec]:
    """Every objective in a value of Specs, itself included."""
    return [spec for _, spec in walk_specs(value) if spec.slot == "objective"]


def looks_back(objective: Spec) -> bool:
    """Whether the encoder must not look ahead under it."""
    knobs = objective.knobs
    return getattr(objective.target, "causal", False) is True or knobs.get("causal") is True or knobs.get("form") == "causal"
