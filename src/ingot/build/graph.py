"""From the model section of a recipe to a Model: components built with shared dimensions handed down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from ..core.errors import UserError
from ..core.parts import Spec

if TYPE_CHECKING:
    from ..core.frozen import Frozen
    from ..core.seams import Field
    from ..model.graph import Model
    from .schema import Graph, TowerSection


def build_model(
    graph: Graph,
    *,
    vocabulary: int | None,
    sequence: int,
    specials: dict[str, int],
    dtype: torch.dtype,
    objective: Spec | None = None,
    fields: dict[str, Field] | None = None,
    objective_fields: dict[str, Field] | None = None,
    context: dict[str, Any] | None = None,
) -> Model:
    """Build the components under the current default device. objective replaces the graph's own; context adds wiring.

    sequence: longest row of text; where an embedding gives another number of positions (``longest``), its encoder is told that one, or
    that of a document where a row of the embedding always holds several (``within``).
    fields: what a row of the data holds; objective_fields: what one of the objective's stage does, where that reads other data.
    """
    from ..model.graph import Model, Tower
    from ..nn.view import View

    shared = {"width": graph.width, "vocabulary": vocabulary, "sequence": sequence, "specials": specials, "fields": fields or {}} | (
        context or {}
    )
    shared.setdefault("frozen", lambda one: untrained(one, shared, graph.init.build(), 0))
    embedding, encoder = _encoder(graph, shared)
    towers = {name: Tower(*_encoder(tower, shared | {"width": tower.width or graph.width})) for name, tower in graph.towers.items()}
    linear = graph.encoder.knobs.get("linear") or dense()
    behind = shared | {"memory_width": graph.width, "linear": linear}
    target = graph.target_embedding.build(**behind) if graph.target_embedding else None
    decoder = graph.decoder.build(**behind | {"sequence": getattr(target or embedding, "longest", sequence)}) if graph.decoder else None
    head = (objective or graph.objective).build(
        **shared | {"fields": objective_fields or shared["fields"]},
        linear=linear,
        embedding=View(embedding),
        encoder=View(encoder),
        decoder_width=getattr(decoder, "width", graph.width),
        tower_widths={name: tower.width or graph.width for name, tower in graph.towers.items()},
    )
    model = Model(embedding=embedding, encoder=encoder, target_embedding=target, decoder=decoder, objective=head, towers=towers)
    model.compute_dtype = dtype
    return model


def look_at(objective: nn.Module, others: dict[int, nn.Module]) -> None:
    """Let an objective that was built beside some modules look at others, by the id of each of them: at those that are on the device and
    trained, so that what it was built with can go."""
    from ..nn.view import View

    for module in objective.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, View) and id(value.module()) in others:
                setattr(module, name, View(others[id(value.module())]))


def untrained(one: Frozen, shared: dict[str, Any], initializer: Any, seed: int) -> Model:
    """The model of a frozen encoder that comes from nowhere. Raises UserError for one that another run or folder holds."""
    from ..model.graph import Model

    if one.start is not None:
        raise UserError(f"{one.start}: only a run can open another's encoder")
    embedding, encoder = _encoder(one, shared | {"width": one.width})
    model = Model(embedding=embedding, encoder=encoder, objective=nn.Identity())
    initializer.apply(model, seed=seed)
    return model


def _encoder(graph: Graph | TowerSection | Frozen, shared: dict[str, Any]) -> tuple[Any, Any]:
    """Embedding and encoder of the model or of a tower."""
    embedding = graph.embedding.build(**shared, linear=graph.encoder.knobs.get("linear") or dense())
    return embedding, graph.encoder.build(
        **shared | {"sequence": getattr(embedding, "within", getattr(embedding, "longest", shared["sequence"]))}
    )


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside hold parameters without memory (on the meta device), and buffers with their values: what a layout that
    keeps a slice of each parameter needs to begin with."""
    register, made = nn.Module.register_parameter, WeakIdKeyDictionary()

    def hollow(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            if parameter not in made:  # a tied one stays one
                made[parameter] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            parameter = made[parameter]
        register(self, name, parameter)

    nn.Module.register_parameter = hollow  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def dense() -> Spec:
    """The plain linear layer."""
    from ..core.resolve import spec

    return spec("nn.linear", "dense")
