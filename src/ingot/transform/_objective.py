"""Objectives that cannot follow a model that grows: refused with a sentence, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.parts import load, parts_in


def refuse_teachers(tree: dict[str, Any]) -> None:
    """ValueError where the objective keeps a copy of the encoder, which would have to grow with it."""
    for item in _held(tree["objective"]):
        if getattr(load("objective", item["name"]), "keeps_encoder", False):
            raise ValueError(
                f"the objective {item['name']!r} keeps a copy of the encoder, which would not grow with it; start its stage in the grown model instead"
            )


def refuse_splits(tree: dict[str, Any]) -> None:
    """ValueError where the objective reads the encoder between blocks, so that even an idle block changes what it reads."""
    for item in _held(tree["objective"]):
        if getattr(load("objective", item["name"]), "splits_encoder", False):
            raise ValueError(
                f"the objective {item['name']!r} reads the encoder before its last block, so that a new one changes what it reads; use stack or interpolate"
            )


def refuse_own_features(tree: dict[str, Any]) -> None:
    """ValueError where copies of the model's features do not tell how the objective's own are to grow."""
    refuse_teachers(tree)
    for item in _held(tree["objective"]):
        if any(isinstance(value, dict) and "depth" in value for value in item.values()):
            raise ValueError(
                f"the objective {item['name']!r} has an encoder of its own, which does not grow with the model's; grow in depth"
            )
        if "hidden" in item:
            raise ValueError(
                f"the objective {item['name']!r} has hidden features of its own, which the model's copies do not tell how to grow; grow in depth"
            )
        if isinstance(item.get("objectives"), dict):
            raise ValueError(f"the objective {item['name']!r} holds several heads, and only one can take up the copies; grow in depth")


def _held(value: Any) -> Iterator[dict[str, Any]]:
    """An objective's data and that of the objectives inside it."""
    if isinstance(value, dict):
        if value.get("name") in parts_in("objective"):
            yield value
        for item in value.values():
            yield from _held(item)
