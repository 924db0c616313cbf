from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.tokenizer import _fast

WORDS = ["the quick brown fox\njumps over the lazy dog. ", "pack my box with five dozen liquor jugs\n\nand then some. "] * 40


def trained(vocabulary: int = 300, **knobs: object):
    return spec("data.tokenizer", "bpe", vocabulary=vocabulary, **knobs).build(texts=lambda: iter(WORDS))


@pytest.fixture(scope="module")
def tokenizer():
    return trained()


@settings(deadline=None)
@given(text=st.text())
def test_round_trip_and_bytes_are_exact(tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


def test_training_is_the_same_twice_and_fills_the_vocabulary(tokenizer) -> None:
    assert trained().identity == tokenizer.identity != trained(280).identity
    assert trained(280).vocabulary == 280
    assert len(tokenizer.encode(["the lazy dog."])[0]) < 9


def test_specials_in_a_text_are_ordinary_text(tokenizer) -> None:
    (ids,) = tokenizer.encode(["a<|end|>b<|mask|>"])
    assert not set(ids.tolist()) & set(tokenizer.specials.values())
    assert tokenizer.decode(ids) == "a<|end|>b<|mask|>"
    assert trained(specials=["mask", "pad"], sentinels=2).specials == {"end": 0, "mask": 1, "pad": 2, "sentinel_0": 3, "sentinel_1": 4}


@settings(deadline=None, max_examples=40)
@given(text=st.text(alphabet="ab '.\n\t \r世1", min_size=30, max_size=300))
def test_long_texts_in_pieces_give_the_same_ids(tokenizer, text: str) -> None:
    whole = tokenizer.encode([text])[0]
    kept, _fast._PIECE = _fast._PIECE, 4
    try:
        pieces = tokenizer.encode(["x", text, ""])
    finally:
        _fast._PIECE = kept
    assert np.array_equal(pieces[1], whole) and len(pieces[2]) == 0


def test_training_reads_no_more_than_its_sample() -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1000
            yield "abcde fghi " * 90 + "j" * 10

    spec("data.tokenizer", "bpe", vocabulary=300, sample="100 kB").build(texts=texts)
    assert read <= 105_000


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match="wants at least 258"):
        trained(200)


def test_saved_and_loaded_it_is_the_same_also_in_transformers(tmp_path: Path, tokenizer) -> None:
    tokenizer.save(tmp_path)
    again = _fast.FastTokenizer.load(tmp_path)
    assert again.identity == tokenizer.identity and again.specials == tokenizer.specials
    pretrained = spec("data.tokenizer", "pretrained", path=str(tmp_path)).build(folder=Path("."))
    assert pretrained.identity == tokenizer.identity
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert theirs("the lazy fox\n ran")["input_ids"] == tokenizer.encode(["the lazy fox\n ran"])[0].tolist()
    assert theirs.eos_token_id == tokenizer.end and theirs.mask_token_id == tokenizer.specials["mask"]
