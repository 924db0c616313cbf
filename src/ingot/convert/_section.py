"""A model section with nothing left to defaults, so that two can be compared and a family can read it without guessing."""

from __future__ import annotations

from typing import Any

from ..core.parts import Spec, load, plain
from ..core.resolve import spec
from ._mapping import Section

# What changes training but not the function that the weights compute, so no config has to hold it.
TRAINING = {
    "embedding": {"dropout"},
    "encoder": {"dropout"},
    "objective": {"z_loss", "rate", "masked", "random", "mask", "late"},
}
SLOTS = {"embedding": "nn.embedding", "encoder": "model.encoder", "objective": "objective"}


def complete(section: Any, sequence: int) -> Section:
    """Plain data of the section's three components with every default and derived size filled in."""
    data = plain(section) if not isinstance(section, dict) else {key: plain(value) for key, value in section.items()}
    parts: Section = {name: specs(data, name).data() for name in SLOTS}
    parts["width"] = width = int(data["width"])
    for name in ("target_embedding", "decoder"):
        if data.get(name) is not None:
            parts[name] = data[name]
    position = parts["embedding"].get("position")
    if isinstance(position, dict) and "size" in position:
        position["size"] = position["size"] or sequence
    encoder = parts["encoder"]
    _mixer(encoder.get("mixer"), width)
    _feedforward(encoder.get("feedforward"), width)
    if encoder.get("final_norm", False) is None:
        block = specs(data, "encoder").knobs["block"]
        encoder["final_norm"] = not getattr(block.target, "normalizes_output", False)
    return parts


def specs(section: Section, component: str) -> Spec:
    """A component of a plain section as a checked Spec."""
    value = section[component]
    value = {"name": value} if isinstance(value, str) else dict(value)
    return spec(SLOTS[component], value.pop("name"), **value)


def differences(given: Section, other: Section) -> list[str]:
    """Where two complete sections compute different functions: ``encoder.norm.eps=1e-06``, with the values of ``given``."""
    found: list[str] = []
    for component in sorted({*given, *other}):
        ignored = {f"{component}.{knob}" for knob in TRAINING.get(component, set())}
        found += _differ(component, given.get(component), other.get(component), ignored)
    return found


def _differ(path: str, given: Any, other: Any, ignored: set[str]) -> list[str]:
    if path in ignored or given == other:
        return []
    if isinstance(given, dict) and isinstance(other, dict) and given.get("name") == other.get("name"):
        return [item for key in sorted({*given, *other}) for item in _differ(f"{path}.{key}", given.get(key), other.get(key), ignored)]
    return [f"{path}={given.get('name') if isinstance(given, dict) else given!r}"]


def _mixer(mixer: Any, width: int) -> None:
    if not isinstance(mixer, dict) or mixer["name"] != "attention":
        return
    mixer["kv_heads"] = mixer["kv_heads"] or mixer["heads"]
    mixer["head_dim"] = mixer["head_dim"] or width // mixer["heads"]
    mixer["output_bias"] = mixer["bias"] if mixer["output_bias"] is None else mixer["output_bias"]
    if mixer["scale"] is not None and abs(mixer["scale"] * mixer["head_dim"] ** 0.5 - 1) < 1e-12:
        mixer["scale"] = None
    position = mixer["position"]
    if isinstance(position, dict) and position["name"] == "rotary" and position["scaling"] is None:
        position |= {"low": 1.0, "high": 4.0, "original": 8192}


def _feedforward(feedforward: Any, width: int) -> None:
    size = getattr(load("nn.feedforward", feedforward["name"]), "size", None) if isinstance(feedforward, dict) else None
    if size is not None:
        feedforward["hidden"] = size(width, feedforward["hidden"])
