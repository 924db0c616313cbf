"""The graph: embedding -> encoder -> (target embedding -> decoder) -> objective, and one entry, ``model(batch)``.

A model of several towers (an image's and a text's) holds the further ones in ``towers`` by name; ``tower=`` chooses one of them
wherever a batch is encoded, and without it the model's own embedding and encoder are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core.measured import measured
from ..nn.context import Cache, Context
from ..nn.dropout import name_layers
from ..nn.embedding._placed import positions_given
from ..nn.pooling import Pooling, pooled

DECODER = "decoder_"
OF_TOKENS = ("tokens", "segments", "positions", "types", "inputs", "targets", "kept", "masked")


class Tower(nn.Module):
    """An embedding and an encoder of their own width beside the model's."""

    def __init__(self, embedding: nn.Module, encoder: nn.Module):
        super().__init__()
        self.embedding, self.encoder = embedding, encoder


class Model(nn.Module):
    """Five named children, and further towers. compute_dtype: what activations are held in; parameters stay in their own dtype as masters."""

    def __init__(
        self,
        *,
        embedding: nn.Module,
        encoder: nn.Module,
        objective: nn.Module,
        target_embedding: nn.Module | None = None,
        decoder: nn.Module | None = None,
        towers: Mapping[str, Tower] | None = None,
    ):
        super().__init__()
        self.embedding = embedding
        self.encoder = encoder
        self.target_embedding = target_embedding
        self.decoder = decoder
        self.towers = nn.ModuleDict(towers) if towers else None
        self.objective = objective
        self.compute_dtype = torch.float32
        name_layers(self)

    def forward(self, batch: dict[str, Tensor], *, ask: str | Callable[[Any, dict[str, Tensor]], Any] = "losses") -> Any:
        """Losses by name, (B,) sums per row each. ask: ``features`` (see there), ``measured`` (core/measured.py), or a method of the
        objective such as ``scores``, or a function of model and batch instead; the one way in, since a sharded model's weights are whole
        only inside of this call."""
        if callable(ask):
            return ask(self, batch)
        if ask == "features":
            return self.features(batch)
        if ask == "measured":
            return measured(self.objective, self, batch)
        return self.objective(self, batch) if ask == "losses" else getattr(self.objective, ask)(self, batch)

    def tower(self, name: str | nn.Module | None = None) -> Tower:
        """Where embedding and encoder are: a further tower by name, the model itself, or a module that has both (an averaged teacher)."""
        if name is None or isinstance(name, nn.Module):
            return cast(Tower, self if name is None else name)
        if self.towers is None or name not in self.towers:
            raise KeyError(f"the model has no tower {name!r}; it has {', '.join(self.towers or ()) or 'only its own'}")
        return cast(Tower, self.towers[name])

    def embed(
        self,
        batch: dict[str, Tensor],
        causal: bool,
        cache: Cache | None = None,
        *,
        tower: str | nn.Module | None = None,
        hide: Tensor | None = None,
    ) -> tuple[Tensor, Context]:
        """The encoder's input, (B, T, D) in compute_dtype, and the context to call it with.

        hide: the vector (D,) to put at the positions that batch["masked"] names. Where the batch has ``kept``, only those positions
        are left.
        """
        embedding = self.tower(tower).embedding
        context = Context(
            None,
            None,
            causal,
            batch.get("rows"),
            batch.get("key"),
            cache,
            hidden=None if hide is None else (batch["masked"], hide),
            dtype=self.compute_dtype,
        )
        x_BTD: Tensor = embedding(batch, context).to(self.compute_dtype)
        context.settle(x_BTD)
        if "kept" in batch:
            index = context.keep(batch["kept"], int(getattr(embedding, "leading", 0)))
            x_BTD = x_BTD.gather(1, index[..., None].expand(-1, -1, x_BTD.shape[2]))
        return x_BTD, context

    def encoded(
        self,
        batch: dict[str, Tensor],
        causal: bool,
        cache: Cache | None = None,
        *,
        tower: str | nn.Module | None = None,
        hide: Tensor | None = None,
    ) -> tuple[Tensor, Context]:
        """The encoder's output, (B, T, D) in compute_dtype, with the context that says where its positions stand and which are padding."""
        x_BTD, context = self.embed(batch, causal, cache, tower=tower, hide=hide)
        h_BTD: Tensor = self.tower(tower).encoder(x_BTD, context)
        if cache is not None:
            cache.advance(h_BTD.shape[1])
        return h_BTD, context

    def encode(
        self,
        batch: dict[str, Tensor],
        causal: bool,
        cache: Cache | None = None,
        *,
        tower: str | nn.Module | None = None,
        hide: Tensor | None = None,
    ) -> Tensor:
        """The encoder's output alone."""
        return self.encoded(batch, causal, cache, tower=tower, hide=hide)[0]

    def decode(
        self,
        batch: dict[str, Tensor],
        memory_BSD: Tensor,
        memory: Context | None = None,
        *,
        causal: bool = True,
        cache: Cache | None = None,
    ) -> Tensor:
        """The decoder's output, (B, U, D), over the batch's ``decoder_`` keys and the encoder's output.

        memory: the context the encoder's output came with; its segments hide padding. The target embedding reads the batch with
        ``decoder_tokens`` as ``tokens`` and so on; without one the encoder's embedding serves both.
        """
        if self.decoder is None:
            raise ValueError("this model has no decoder; set model.decoder")
        embedding = self.embedding if self.target_embedding is None else self.target_embedding
        read = {name: value for name, value in batch.items() if name not in OF_TOKENS and not name.startswith(DECODER)}
        read |= {name.removeprefix(DECODER): value for name, value in batch.items() if name.startswith(DECODER)}
        if "kept" in batch:
            read["kept"] = batch["kept"]
        segments = None if memory is None else memory.segments_BT
        context = Context(
            None, None, causal, batch.get("rows"), batch.get("key"), cache, memory_BSD=memory_BSD, memory_segments_BS=segments
        )
        x_BUD: Tensor = embedding(read, context).to(self.compute_dtype)
        context.settle(x_BUD)
        h_BUD: Tensor = self.decoder(x_BUD, context)
        if cache is not None:
            cache.advance(h_BUD.shape[1])
        return h_BUD

    def features(
        self, batch: dict[str, Tensor], *, tower: str | None = None, pooling: Pooling = "mean", layer: int | None = None
    ) -> Tensor:
        """One vector a row, (B, D), of a batch that is not corrupted: the objective's own where it has them, else pooled positions.

        layer: behind so many of the encoder's blocks alone, pooled, whatever the objective has.
        """
        own = getattr(self.objective, "features", None)
        if own is not None and tower is None and layer is None:
            found: Tensor = own(self, batch)
            return found
        h_BTD, context = self.embed(batch, causal=bool(getattr(self.objective, "causal", False)), tower=tower)
        encoder: Any = self.tower(tower).encoder
        h_BTD = encoder(h_BTD, context) if layer is None else encoder.through(h_BTD, context, 0, layer)
        return pooled(h_BTD, context, pooling, int(getattr(self.tower(tower).embedding, "leading", 0)))

    def logits(self, h: Tensor) -> Tensor:
        """Scores of the objective's head for encoder outputs h (..., D); AttributeError for an objective without one."""
        scores: Tensor = self.objective.logits(self, h)
        return scores

    def set_objective(self, objective: nn.Module) -> None:
        """Replace the objective, as a new stage may."""
        self.objective = objective
        name_layers(self)

    def stacks(self) -> list[nn.Module]:
        """Encoders and decoder."""
        towers = [tower.encoder for tower in self.towers.values()] if self.towers is not None else []
        return [stack for stack in (self.encoder, *towers, self.decoder) if stack is not None]  # type: ignore[misc]

    def compile_blocks(self, **options: Any) -> None:
        """Compile the blocks of encoders and decoder where these offer it."""
        for stack in self.stacks():
            if hasattr(stack, "compile_blocks"):
                stack.compile_blocks(**options)


def spent(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """(B,) int64 positions that a model is given per row, padding left out: all its embeddings' together."""
    rows = batch["rows"]
    total = torch.zeros_like(rows)
    for embedding in (model.embedding, *(tower.embedding for tower in (model.towers or {}).values())):
        total = total + positions_given(embedding, batch)
    return total * (rows >= 0)
