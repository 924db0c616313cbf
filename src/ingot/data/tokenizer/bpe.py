"""Byte-level byte-pair encoding, trained on the corpus.   Sennrich et al. 2016, arXiv:1508.07909; over bytes as in GPT-2.

The most frequent neighboring pair becomes a token until the vocabulary is full. Every text can be encoded; no unknown token.
Training reads at most ``sample`` bytes, taken evenly from all shards, and holds counts of distinct words only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tokenizers

from ...core.errors import UserError
from ...core.parts import NonNegative, Positive, part
from ...core.quantities import Bytes
from ._fast import FastTokenizer, token_of


@part
class Bpe(FastTokenizer):
    """vocabulary: number of ids, specials included (fewer where the texts have not that many pairs). sample: how much text to train
    on. specials: names of special ids beside ``end``. sentinels: how many of ``sentinel_0``, ... follow. minimum: least count of a pair."""

    def __init__(
        self,
        texts: Callable[[], Iterator[str]],
        *,
        vocabulary: Positive[int] = 8192,
        sample: Bytes = "64 MiB",
        specials: list[str] = ["mask"],
        sentinels: NonNegative[int] = 0,
        minimum: Positive[int] = 2,
    ):
        for message in self.check({"vocabulary": vocabulary, "specials": specials, "sentinels": sentinels}, {}):
            raise UserError(message)
        names = _names(specials, sentinels)
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=minimum,
            show_progress=False,
            special_tokens=[tokenizers.AddedToken(token_of(name), special=True, normalized=False) for name in names],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        )
        inner.train_from_iterator(_limited(texts(), int(sample.value)), trainer)
        super().__init__(inner, {name: inner.token_to_id(token_of(name)) for name in names}, splits=True)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        names = _names(knobs["specials"], knobs["sentinels"])
        if knobs["vocabulary"] < 256 + len(names):
            yield f"vocabulary wants at least {256 + len(names)} (256 bytes and {len(names)} specials), got {knobs['vocabulary']}"
        if len(set(names)) < len(names) or not all(names):
            yield "specials want names that are not empty, each once"


def _names(specials: list[str], sentinels: int) -> list[str]:
    return ["end", *(name for name in specials if name != "end"), *(f"sentinel_{index}" for index in range(sentinels))]


def _limited(texts: Iterator[str], most: int) -> Iterator[str]:
    """Texts up to a number of bytes in all; the last is cut."""
    left = most
    for text in texts:
        if left <= 0:
            return
        kept = text if len(text) <= left else text[:left]
        left -= len(kept.encode())
        yield kept
