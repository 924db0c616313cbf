"""Of a recipe's check: knobs that name a layer of the encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def absent_layer(layer: int | None, context: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with reading the output of the encoder's block ``layer``, from 1; None reads nothing, and without a model in the
    context nothing is looked at."""
    encoder = getattr(getattr(context.get("run"), "model", None), "encoder", None)
    if layer is None or encoder is None:
        return
    if not hasattr(encoder.target, "through"):
        yield f"layer: encoder {encoder.name!r} does not show the output of a layer"
    elif layer > encoder.knobs["depth"]:
        yield f"layer: wants {layer}, but the encoder has {encoder.knobs['depth']}"
