"""Continuing a prompt: token by token, with a cache of keys and values where every mixer keeps one; by self-speculation; by unmasking.

Which of them an objective's text is written with: model/write.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.evaluating import evaluating
from ..nn.context import Cache
from .graph import Model


def generate(
    model: Model,
    tokens: Sequence[int],
    *,
    max_new: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    end: int | None = None,
    cached: bool = True,
) -> Iterator[int]:
    """Yield up to max_new ids that follow the prompt; stops before an ``end`` id.

    temperature: 0 takes the likeliest id. top_k: only so many likeliest ids. top_p: the fewest likeliest ids that hold this much
    probability (Holtzman et al. 2019, arXiv:1904.09751). seed: same prompt and seed, same text. cached: keep keys and values.
    Raises UserError for an empty prompt, a model that is not causal, or one whose learned positions end too early.
    """
    if len(tokens) == 0:
        raise UserError("generation wants at least one token to continue")
    if not getattr(model.objective, "causal", False) or not hasattr(model.objective, "logits"):
        raise UserError(f"{type(model.objective).__name__} writes no text: only a causal language model does, or one of masked_diffusion")
    refuse_longer(model, len(tokens) + max_new - 1, len(tokens), max_new)  # the last token is not read
    cache = Cache(len(tokens) + max_new) if cached and caches(model.encoder) else None

    def states(fresh: Tensor) -> Tensor:
        return model.encode({"tokens": fresh}, causal=True, cache=cache)

    return _generate(model, states, list(tokens), max_new, temperature, top_k, top_p, seed, end, cache is not None)


def answer(
    model: Model,
    batch: dict[str, Tensor],
    *,
    start: Sequence[int],
    max_new: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    end: int | None = None,
    cached: bool = True,
) -> Iterator[int]:
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


def refuse_longer(model: Model, read: int, prompt: int, new: int) -> None:
    """Raise UserError where the model has fewer learned positions than tokens are to be read."""
    longest = getattr(getattr(model.embedding, "position", None), "weight", None)
    if longest is not None and read > longest.shape[0]:
        raise UserError(f"the model has {longest.shape[0]} positions; a prompt of {prompt} tokens and {new} new ones are more")


def caches(stack: nn.Module) -> bool:
    """Whether every mixer of an encoder or decoder keeps what it needs of past positions, and no feed-forward needs the whole row."""
    blocks = getattr(stack, "blocks", None)
    held = [getattr(block, name, None) for block in blocks or () for name in ("mixer", "cross")]  # type: ignore[union-attr]
    mixers = [mixer for mixer in held if mixer is not None]
    whole_rows = any(not getattr(block.feedforward, "caches", True) for block in blocks or ())  # type: ignore[union-attr]
    return bool(mixers) and not whole_rows and all(getattr(mixer, "caches", False) for mixer in mixers)


def _generate(
    model: Model,
    states: Callable[[Tensor], Tensor],
    tokens: list[int],
    max_new: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
    end: int | None,
    cached: bool,
) -> Iterator[int]:
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


def _scores(model: Model, states: Callable[[Tensor], Tensor], tokens_BT: Tensor) -> Tensor:
    """Logits of the id after the last position, (V,)."""
    with evaluating(model):
        return model.logits(states(tokens_BT)[0, -1])


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


def speculate(model: Model, tokens: Sequence[int], *, max_new: int, end: int | None = None) -> Iterator[int]:
    """Yield the ids that greedy ``generate`` yields, several per forward: a ``multi_token`` model's further heads propose, its next-token
    head verifies all proposals at once and the longest right start is kept (Stern et al. 2018, arXiv:1811.03115).

    Raises UserError for an empty prompt or a model without further heads or with mixers that keep no past.
    """
    objective: Any = model.objective
    if (
        len(tokens) == 0
        or not hasattr(objective, "ahead")
        or not caches(model.encoder)
        or not all(caches(layer) for layer in objective.further)
    ):
        raise UserError("speculation wants a prompt, and a multi_token model whose mixers all keep keys and values")
    held = [Cache(len(tokens) + max_new + len(objective.further)) for _ in range(1 + len(objective.further))]
    fresh, known, given = list(tokens), len(tokens), 0
    while given < max_new:
        truth, guesses = _verified(model, fresh, held)
        at = known - 1
        while at + 1 < len(fresh) and fresh[at + 1] == truth[at]:
            at += 1
        for token in [*fresh[known : at + 1], truth[at]]:
            if token == end or given == max_new:
                return
            given += 1
            yield token
        for cache in held:
            cache.length += at + 1
        fresh, known = [truth[at], *(guess[at] for guess in guesses)][: max(1, max_new - given)], 1


def _verified(model: Model, fresh: list[int], held: Sequence[Cache]) -> tuple[list[int], list[list[int]]]:
    """The likeliest next id after each fresh position, and the further heads' guesses there. The caches' ends stay where they are."""
    objective: Any = model.objective
    with evaluating(model):
        batch = {"tokens": torch.tensor([fresh], device=next(model.parameters()).device)}
        trunk, h, context = objective.trunk(model, batch, held[0])
        ahead = objective.ahead(trunk, context, held[1:])
        truth, *guesses = (model.logits(found[0]).argmax(dim=-1).tolist() for found in (h, *ahead))
        return truth, guesses


def unmask(
    model: Model,
    tokens: Sequence[int],
    *,
    new: int,
    steps: int,
    temperature: float = 1.0,
    order: str = "random",
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[int]:
    """The prompt with ``new`` further ids, written by a ``masked_diffusion`` model: all begin as mask tokens and are filled in over
    ``steps``.

    order: ``random`` fills each with the same probability (MDLM's ancestral sampling, in equal numbers per step), ``confident`` the surest
    first (LLaDA). temperature: 0 takes the likeliest id. top_k, top_p: as in ``generate``. Raises UserError for another kind of model.
    """
    mask = getattr(model.objective, "mask", None)
    if mask is None or not hasattr(model.objective, "times") or order not in ("random", "confident"):
        raise UserError("unmasking wants a masked_diffusion model, and the order random or confident")
    device, draws = next(model.parameters()).device, torch.Generator().manual_seed(seed)
    row = torch.tensor([*tokens, *[mask] * new])
    rank = torch.rand(len(row), generator=draws)
    for step in range(steps):
        hidden = (row == mask).nonzero()[:, 0]
        hidden = hidden[hidden >= len(tokens)]
        take = len(hidden) - new * (steps - step - 1) // steps
        if take <= 0:
            continue
        with evaluating(model):
            scores_NV = model.logits(model.encode({"tokens": row[None].to(device)}, causal=False)[0, hidden.to(device)]).cpu()
        scores_NV[:, mask] = -torch.inf
        found = torch.stack([choose(scores_V, draws, temperature=temperature, top_k=top_k, top_p=top_p) for scores_V in scores_NV])
        sure = rank[hidden] if order == "random" else scores_NV.softmax(dim=-1).gather(1, found[:, None])[:, 0]
        chosen = sure.argsort(descending=True, stable=True)[:take]
        row[hidden[chosen]] = found[chosen]
    return [int(token) for token in row]
