"""What was done to a model before, in words: the lines that a checkpoint keeps of every transform."""

from __future__ import annotations

from typing import Any


def described(line: dict[str, Any]) -> str:
    """A line of the lineage in words."""
    before, after = line["before"], line["after"]
    knobs = "".join(f" {name}={_short(value)}" for name, value in line["knobs"].items() if value is not None)
    sizes = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in ("width", "depth") if before[name] != after[name])
    text = f"{line['name']}{knobs}: {sizes + ', ' if sizes else ''}parameters {before['parameters']:,} -> {after['parameters']:,}"
    if "loss" in line:
        text += f", loss {line['loss'][0]:.4f} -> {line['loss'][1]:.4f}"
    return "; ".join([text, *line["notes"]])


def _short(value: Any) -> Any:
    """A nested part by its name alone."""
    return value["name"] if isinstance(value, dict) and "name" in value else value
