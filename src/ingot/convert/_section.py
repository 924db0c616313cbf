"""A model section with nothing left to defaults, so that two can be compared and a family can read it without guessing."""

from __future__ import annotations

from typing import Any

from ..core.parts import Spec, load, plain
from ..core.resolve import spec
from ._mapping import Section

# What changes training but not the function that the weights compute, so no config has to hold it.
TRAINING = {
    "embedding": {"dropout", "normalize", "gradient", "stem_dropout"},
    "encoder": {"dropout", "layer_drop", "checkpointing"},
    "target_embedding": {"dropout"},
    "decoder": {"dropout", "checkpointing"},
    "objective": {
        "temperature",
        "most",
        "shift",
        "z_loss",
        "hide",
        "span",
        "dropout",
        "rate",
        "masked",
        "random",
        "mask",
        "late",
        "smoothing",
        "mean",
        "sentinels",
        "start",
        "weight",
        "generator",
        "generator_width",
        "norm",
        "contexts",
        "share",
        "negatives",
        "diversity",
        "memory",
    },
}
SLOTS = {"embedding": "nn.embedding", "encoder": "model.encoder", "objective": "objective"}
BEHIND = {"target_embedding": "nn.embedding", "decoder": "model.decoder"}


def complete(section: Any, sequence: int) -> Section:
    """Plain data of the section's components with every default and derived size filled in."""
    data = plain(section) if not isinstance(section, dict) else {key: plain(value) for key, value in section.items()}
    parts: Section = {name: specs(data, name).data() for name in SLOTS}
    parts["width"] = width = int(data["width"])
    _positions(parts["embedding"], specs(data, "embedding"), sequence)
    _levels(parts["embedding"])
    _stack(parts["encoder"], specs(data, "encoder"), width)
    for name in BEHIND:
        if data.get(name) is not None:
            parts[name] = specs(data, name).data()
    if "target_embedding" in parts:
        _positions(parts["target_embedding"], specs(data, "target_embedding"), sequence)
    if "decoder" in parts:
        _stack(parts["decoder"], specs(data, "decoder"), parts["decoder"].get("inner") or width)
    for name, tower in (data.get("towers") or {}).items():
        own = int(tower.get("width") or width)
        held = {component: specs(tower, component).data() for component in ("embedding", "encoder")}
        _positions(held["embedding"], specs(tower, "embedding"), sequence)
        _stack(held["encoder"], specs(tower, "encoder"), own)
        parts.setdefault("towers", {})[name] = {"width": own} | held
    return parts


def _positions(embedding: Section, chosen: Spec, sequence: int) -> None:
    """Learned positions: as many as the embedding itself knows, else as rows are long."""
    position, own = embedding.get("position"), getattr(chosen.target, "positions", None)
    if isinstance(position, dict) and "size" in position:
        position["size"] = position["size"] or (own(chosen.knobs) if own else None) or sequence


def _levels(embedding: Section) -> None:
    """The same number for all channels as the one number."""
    for name in ("mean", "std"):
        if isinstance(value := embedding.get(name), list) and len(set(value)) == 1:
            embedding[name] = value[0]


def _stack(stack: Section, chosen: Spec, width: int) -> None:
    for name in ("mixer", "cross"):
        _mixer(stack.get(name), width)
    _feedforward(stack.get("feedforward"), width)
    if stack.get("final_norm", False) is None:
        stack["final_norm"] = not getattr(chosen.knobs["block"].target, "normalizes_output", False)


def specs(section: Section, component: str) -> Spec:
    """A component of a plain section as a checked Spec."""
    value = section[component]
    value = {"name": value} if isinstance(value, str) else dict(value)
    return spec((SLOTS | BEHIND)[component], value.pop("name"), **value)


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
    if not isinstance(mixer, dict) or mixer["name"] not in ("attention", "cross_attention"):
        return
    mixer["kv_heads"] = mixer["kv_heads"] or mixer["heads"]
    mixer["head_dim"] = mixer["head_dim"] or width // mixer["heads"]
    mixer["output_bias"] = mixer["bias"] if mixer["output_bias"] is None else mixer["output_bias"]
    if mixer["scale"] is not None and abs(mixer["scale"] * mixer["head_dim"] ** 0.5 - 1) < 1e-12:
        mixer["scale"] = None
    position = mixer.get("position")
    if isinstance(position, dict) and position["name"] == "rotary" and position["scaling"] is None:
        position |= {"low": 1.0, "high": 4.0, "original": 8192}


def _feedforward(feedforward: Any, width: int) -> None:
    size = getattr(load("nn.feedforward", feedforward["name"]), "size", None) if isinstance(feedforward, dict) else None
    if size is not None:
        feedforward["hidden"] = size(width, feedforward["hidden"])
