"""Texts encoded together have the ids that they have alone."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from ingot.data.tokenizer._fast import FastTokenizer
from ingot.data.tokenizer._joined import Joined

PIECES = [
    "the ",
    "cat",
    " sat",
    "\n",
    "\n\n",
    "  ",
    "Zürich ",
    "日本 ",
    "e\u0301",
    "<|end|>",
    "a<x>b",
    "[SEP]",
    "12.5%",
    "",
    "\t",
    "\ufeff",
    "▁",
    "  the",
]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(0, 12))) for _ in range(count)]


def kind(name: str) -> tokenizers.Tokenizer:
    """A tokenizer trained on the texts, cut in a way of the field."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<|end|>"])
    if name.startswith("byte level"):
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=name.endswith("prefix"))
    elif name == "word piece":
        inner = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<unk>", "<|end|>"])
    elif name == "unigram":
        inner = tokenizers.Tokenizer(models.Unigram())
        inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        trainer = tokenizers.trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>", "<|end|>"], unk_token="<unk>")
    elif name == "prepended":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=name)
    inner.train_from_iterator(texts(400, seed=1), trainer)
    inner.add_tokens([tokenizers.AddedToken("<x>", lstrip=True, rstrip=True), tokenizers.AddedToken("cat", single_word=True)])
    # As read from a file, which ours always are: a trained unigram's scores change in their last bit on the way, and ties with them.
    return tokenizers.Tokenizer.from_str(inner.to_str())


@pytest.mark.parametrize("name", ["byte level", "byte level with prefix", "word piece", "unigram", "prepended", "always", "never"])
def test_together_as_alone(name: str) -> None:
    tokenizer = FastTokenizer(kind(name), {"end": 1})
    assert tokenizer.joined is not None
    many = texts(1000)
    alone = [tokenizer.inner.encode(text, add_special_tokens=False).ids for text in many]
    assert [ids.tolist() for ids in tokenizer.joined.encode(many)] == alone
    assert [ids.tolist() for ids in tokenizer.encode(many)] == alone
    assert len({tuple(ids) for ids in alone}) > 500, "the texts hardly differ"


def test_a_start_that_is_treated_apart_is_not_joined() -> None:
    inner = kind("first")
    with pytest.raises(ValueError, match="where it stands"):
        Joined(inner, FastTokenizer(inner, {"end": 1}).dtype)
    tokenizer, many = FastTokenizer(inner, {"end": 1}), texts(300)
    assert tokenizer.joined is None
    assert [ids.tolist() for ids in tokenizer.encode(many)] == [inner.encode(text, add_special_tokens=False).ids for text in many]


@pytest.mark.parametrize("held", ["\ue4c1\ue4c2", "x\ue4c1", "\ue4c2x"])
def test_texts_that_hold_the_token_between_are_encoded_alone(held: str) -> None:
    tokenizer = FastTokenizer(kind("byte level"), {"end": 1})
    many = [*texts(300), held]
    assert not Joined.safe(many)
    assert [ids.tolist() for ids in tokenizer.encode(many)] == [tokenizer.inner.encode(text, add_special_tokens=False).ids for text in many]
