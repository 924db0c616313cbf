"""The graph: embedding -> encoder -> (target embedding -> decoder) -> objective, and one entry, ``model(batch)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..nn.context import Cache, Context, context_of
from ..nn.dropout import name_layers


class Model(nn.Module):
    """Five named children. compute_dtype: what activations are held in; parameters stay in their own dtype as masters."""

    def __init__(
        self,
        *,
        embedding: nn.Module,
        encoder: nn.Module,
        objective: nn.Module,
        target_embedding: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        super().__init__()
        self.embedding = embedding
        self.encoder = encoder
        self.target_embedding = target_embedding
        self.decoder = decoder
        self.objective = objective
        self.compute_dtype = torch.float32
        name_layers(self)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses by name, (B,) sums per row each."""
        losses: dict[str, Tensor] = self.objective(self, batch)
        return losses

    def embed(self, batch: dict[str, Tensor], causal: bool, cache: Cache | None = None) -> tuple[Tensor, Context]:
        """The encoder's input, (B, T, D) in compute_dtype, and the context to call it with."""
        values = batch.get("inputs", batch.get("tokens", next(iter(batch.values()))))
        context = context_of(batch, values, causal=causal, cache=cache)
        return self.embedding(batch, context).to(self.compute_dtype), context

    def encode(self, batch: dict[str, Tensor], causal: bool, cache: Cache | None = None) -> Tensor:
        """The encoder's output, (B, T, D) in compute_dtype."""
        h_BTD: Tensor = self.encoder(*self.embed(batch, causal, cache))
        if cache is not None:
            cache.advance(h_BTD.shape[1])
        return h_BTD

    def logits(self, h: Tensor) -> Tensor:
        """Scores of the objective's head for encoder outputs h (..., D); AttributeError for an objective without one."""
        scores: Tensor = self.objective.logits(self, h)
        return scores

    def set_objective(self, objective: nn.Module) -> None:
        """Replace the objective, as a new stage may."""
        self.objective = objective
        name_layers(self)

    def compile_blocks(self, **options: Any) -> None:
        """Compile the blocks of encoder and decoder where these offer it."""
        for stack in (self.encoder, self.decoder):
            if stack is not None and hasattr(stack, "compile_blocks"):
                stack.compile_blocks(**options)
