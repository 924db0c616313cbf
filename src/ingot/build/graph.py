"""From the model section of a recipe to a Model: components built with shared dimensions handed down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..core.parts import Spec

if TYPE_CHECKING:
    from ..model.graph import Model
    from .schema import Graph


def build_model(graph: Graph, *, vocabulary: int, sequence: int, specials: dict[str, int], dtype: torch.dtype, objective: Spec | None = None, context: dict[str, Any] | None = None) -> Model:
    """Build the five components under the current default device. objective replaces the graph's own; context adds wiring."""
    from ..model.graph import Model

    shared = {"width": graph.width, "vocabulary": vocabulary, "sequence": sequence, "specials": specials} | (context or {})
    embedding = graph.embedding.build(**shared)
    encoder = graph.encoder.build(**shared)
    target = graph.target_embedding.build(**shared) if graph.target_embedding else None
    decoder = graph.decoder.build(**shared) if graph.decoder else None
    linear = graph.encoder.knobs.get("linear") or dense()
    head = (objective or graph.objective).build(**shared, linear=linear)
    model = Model(embedding=embedding, encoder=encoder, target_embedding=target, decoder=decoder, objective=head)
    model.compute_dtype = dtype
    return model


def dense() -> Spec:
    """The plain linear layer."""
    from ..core.resolve import spec

    return spec("nn.linear", "dense")
