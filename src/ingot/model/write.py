"""Writing text with a model in the way that its objective names: token by token, several tokens at a time, or by unmasking.

An objective says it with an attribute ``writer``, one of WRITERS; without one, a causal model that scores tokens writes token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..core.errors import UserError
from .generate import caches, generate, refuse_longer, speculate, unmask
from .graph import Model


@dataclass(frozen=True)
class Manner:
    """How to write. max_new: the most new ids. temperature: 0 takes the likeliest id. top_k, top_p: as in ``generate``. seed: same
    prompt and seed, same text. end: the id that ends a text. passes: of an unmasking model over the text, which fills in as many
    tokens at each; one for every token where it is None."""

    max_new: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    end: int | None = None
    passes: int | None = None


def write(model: Model, tokens: Sequence[int], manner: Manner) -> Iterator[int]:
    """Yield up to manner.max_new ids that follow the prompt, without an ``end``.

    Raises UserError for an empty prompt, an objective that cannot write, learned positions that end too early, or passes where there
    are none.
    """
    name = getattr(model.objective, "writer", "token_by_token")
    if len(tokens) == 0:
        raise UserError("generation wants at least one token to continue")
    if manner.passes is not None and name != "by_unmasking":
        raise UserError(f"passes are of models that unmask, such as masked_diffusion's; this one writes {name.replace('_', ' ')}")
    return WRITERS[name](model, tokens, manner)


def token_by_token(model: Model, tokens: Sequence[int], manner: Manner) -> Iterator[int]:
    """Any causal model. Raises UserError for another."""
    return generate(
        model,
        tokens,
        max_new=manner.max_new,
        temperature=manner.temperature,
        top_k=manner.top_k,
        top_p=manner.top_p,
        seed=manner.seed,
        end=manner.end,
    )


def several_at_a_time(model: Model, tokens: Sequence[int], manner: Manner) -> Iterator[int]:
    """The likeliest text by self-speculation; a drawn one, or one of mixers that keep no past, token by token. The text is the same."""
    stacks = [model.encoder, *model.objective.further]  # type: ignore[union-attr,misc]
    if manner.temperature == 0 and all(map(caches, stacks)):
        refuse_longer(model, len(tokens) + manner.max_new - 1, len(tokens), manner.max_new)
        return speculate(model, tokens, max_new=manner.max_new, end=manner.end)
    return token_by_token(model, tokens, manner)


def by_unmasking(model: Model, tokens: Sequence[int], manner: Manner) -> Iterator[int]:
    """All new tokens begin as masks; drawn ones are filled in in a random order, likeliest ones the surest first. Ends before an end."""
    refuse_longer(model, len(tokens) + manner.max_new, len(tokens), manner.max_new)
    found = unmask(
        model,
        tokens,
        new=manner.max_new,
        steps=min(manner.passes or manner.max_new, manner.max_new),
        temperature=manner.temperature,
        order="random" if manner.temperature else "confident",
        top_k=manner.top_k,
        top_p=manner.top_p,
        seed=manner.seed,
    )[len(tokens) :]
    yield from found[: found.index(manner.end)] if manner.end in found else found


WRITERS: dict[str, Callable[[Model, Sequence[int], Manner], Iterator[int]]] = {
    "token_by_token": token_by_token,
    "several_at_a_time": several_at_a_time,
    "by_unmasking": by_unmasking,
}
