"""Continuing a prompt token by token, with a cache of keys and values where every mixer keeps one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..nn.context import Cache
from .graph import Model


def generate(
    model: Model, tokens: Sequence[int], *, max_new: int, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0,
    seed: int = 0, end: int | None = None, cached: bool = True,
) -> Iterator[int]:  # fmt: skip
    """Yield up to max_new ids that follow the prompt; stops before an ``end`` id.

    temperature: 0 takes the likeliest id. top_k: only so many likeliest ids. top_p: the fewest likeliest ids that hold this much
    probability (Holtzman et al. 2019, arXiv:1904.09751). seed: same prompt and seed, same text. cached: keep keys and values.
    Raises UserError for an empty prompt, a model that is not causal, or one whose learned positions end too early.
    """
    if len(tokens) == 0:
        raise UserError("generation wants at least one token to continue")
    if not getattr(model.objective, "causal", False) or not hasattr(model.objective, "logits"):
        raise UserError("generation wants a causal language model")
    longest = getattr(getattr(model.embedding, "position", None), "weight", None)
    if longest is not None and len(tokens) + max_new - 1 > longest.shape[0]:
        raise UserError(f"the model has {longest.shape[0]} positions; a prompt of {len(tokens)} tokens and {max_new} new ones are more")
    cache = Cache(len(tokens) + max_new) if cached and caches(model.encoder) else None

    def states(fresh: Tensor) -> Tensor:
        return model.encode({"tokens": fresh}, causal=True, cache=cache)

    return _generate(model, states, list(tokens), max_new, temperature, top_k, top_p, seed, end, cache is not None)


def answer(
    model: Model, batch: dict[str, Tensor], *, start: Sequence[int], max_new: int, temperature: float = 0.0, top_k: int | None = None,
    top_p: float = 1.0, seed: int = 0, end: int | None = None, cached: bool = True,
) -> Iterator[int]:  # fmt: skip
    """Yield up to max_new ids that the decoder writes after ``start`` for one row of any modality; the row is encoded once.

    The other settings are those of ``generate``. Raises UserError for a model without a decoder or without scores.
    """
    if model.decoder is None or not hasattr(model.objective, "logits"):
        raise UserError("writing an answer wants a model with a decoder and an objective that scores tokens")
    if len(batch["rows"]) != 1 or len(start) == 0:
        raise UserError("an answer is written for one row, after at least one token")
    cache = Cache(len(start) + max_new) if cached and caches(model.decoder) else None
    held: list[tuple[Tensor, Any]] = []

    def states(fresh: Tensor) -> Tensor:
        if not held:
            held.append(model.encoded(batch, causal=False))
        return model.decode(batch | {"decoder_tokens": fresh}, *held[0], cache=cache)

    return _generate(model, states, list(start), max_new, temperature, top_k, top_p, seed, end, cache is not None)


def caches(stack: nn.Module) -> bool:
    """Whether every mixer of an encoder or decoder keeps what it needs of past positions, and no feed-forward needs the whole row."""
    blocks = getattr(stack, "blocks", None)
    mixers = [mixer for block in blocks or () for mixer in (block.mixer, getattr(block, "cross", None)) if mixer is not None]  # type: ignore[union-attr]
    whole_rows = any(not getattr(block.feedforward, "caches", True) for block in blocks or ())  # type: ignore[union-attr]
    return bool(mixers) and not whole_rows and all(getattr(mixer, "caches", False) for mixer in mixers)


def _generate(
    model: Model, states: Callable[[Tensor], Tensor], tokens: list[int], max_new: int, temperature: float, top_k: int | None, top_p: float,
    seed: int, end: int | None, cached: bool,
) -> Iterator[int]:  # fmt: skip
    device = next(model.parameters()).device
    draws = torch.Generator().manual_seed(seed)
    fresh = tokens
    for _ in range(max_new):
        scores_V = _scores(model, states, torch.tensor([fresh], device=device))
        token = int(choose(scores_V.cpu(), draws, temperature=temperature, top_k=top_k, top_p=top_p))
        if token == end:
            return
        yield token
        tokens = [*tokens, token]
        fresh = [token] if cached else tokens


@torch.no_grad()
def _scores(model: Model, states: Callable[[Tensor], Tensor], tokens_BT: Tensor) -> Tensor:
    """Logits of the id after the last position, (V,)."""
    training = model.training
    model.eval()
    try:
        return model.logits(states(tokens_BT)[0, -1])
    finally:
        model.train(training)


def choose(scores_V: Tensor, draws: torch.Generator, *, temperature: float, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Draw one id from logits; the likeliest at temperature 0."""
    if temperature == 0:
        return scores_V.argmax()
    scores, ids = (scores_V.double() / temperature).sort(descending=True)
    if top_k is not None:
        scores, ids = scores[:top_k], ids[:top_k]
    probabilities = scores.softmax(dim=0)
    before = probabilities.cumsum(dim=0) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p, 0.0) if top_p < 1 else probabilities
    probabilities[0] = probabilities[0].clamp(min=1e-300)
    return ids[torch.multinomial(probabilities, 1, generator=draws)].squeeze(0)
