"""What every tokenizer keeps: nothing is lost, bytes add up, identities name the mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.resolve import spec

SLOTS = ["data.tokenizer"]
TEXTS = [
    "",
    " ",
    "\n",
    "plain words, twice plain words",
    "  spaces   inside \t and at the end  ",
    "line\nline\r\n\n\nline",
    "Größe, naïve, 東京, Ελληνικά, ру́сский",
    "👩‍👩‍👧‍👦 🇨🇭 zalgo: z̷̢̛",
    "\x00 \x01 \x7f \u200b \ufeff \u202e",
    "<|end|> <|mask|> </s> [SEP] <0x0A>",
    "0123456789 " * 30,
    "a" * 500,
    "\U0010ffff\ud7ff\ue000",
]


@pytest.fixture
def make(case: Any, tmp_path: Path) -> Any:
    """Builds the part; a folder ``tokenizer`` in the Hugging Face format is there, and texts to train on."""
    trained = spec("data.tokenizer", "bpe", vocabulary=320).build(texts=lambda: iter(TEXTS * 3))
    trained.save(tmp_path / "tokenizer")
    return lambda: case.build(texts=lambda: iter(TEXTS * 3), folder=tmp_path)


def test_nothing_is_lost(make: Any) -> None:
    tokenizer = make()
    encoded = tokenizer.encode(TEXTS)
    for text, ids in zip(TEXTS, encoded, strict=True):
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids.tolist()) == text
    assert all(np.array_equal(tokenizer.encode([text])[0], ids) for text, ids in zip(TEXTS, encoded))


def test_ids_lie_in_the_vocabulary_and_specials_stay_out(make: Any) -> None:
    tokenizer = make()
    ids = np.concatenate([np.asarray(item, dtype=np.int64) for item in tokenizer.encode(TEXTS)])
    assert ids.min() >= 0 and ids.max() < tokenizer.vocabulary
    assert tokenizer.specials["end"] == tokenizer.end < tokenizer.vocabulary
    assert len(set(tokenizer.specials.values())) == len(tokenizer.specials) and not np.isin(ids, list(tokenizer.specials.values())).any()
    assert tokenizer.decode([*ids[:20].tolist(), tokenizer.end]) == tokenizer.decode(ids[:20])


def test_token_bytes_add_up_to_the_text(make: Any) -> None:
    tokenizer = make()
    table = tokenizer.token_bytes()
    assert table.shape == (tokenizer.vocabulary,) and table.dtype == np.int64 and table.min() >= 0 and not table[tokenizer.end]
    for text, ids in zip(TEXTS, tokenizer.encode(TEXTS)):
        assert int(table[ids].sum()) == len(text.encode())


def test_identity_names_the_mapping(case: Any, make: Any, tmp_path: Path) -> None:
    """The same wherever and however often it is made; another for another mapping."""
    first, again = make(), make()
    assert isinstance(first.identity, str) and first.identity == again.identity
    assert all(np.array_equal(one, other) for one, other in zip(first.encode(TEXTS), again.encode(TEXTS)))
    others = [spec("data.tokenizer", "bytes", specials=["strange"]), spec("data.tokenizer", "bpe", vocabulary=290)]
    assert first.identity not in {other.build(texts=lambda: iter(TEXTS), folder=tmp_path).identity for other in others}


def test_what_is_saved_is_the_same_tokenizer(make: Any, tmp_path: Path) -> None:
    tokenizer = make()
    if not hasattr(tokenizer, "save"):
        pytest.skip("cannot be saved")
    tokenizer.save(tmp_path / "saved")
    loaded = spec("data.tokenizer", "pretrained", path="saved").build(folder=tmp_path)
    assert (loaded.vocabulary, loaded.end, loaded.specials) == (tokenizer.vocabulary, tokenizer.end, tokenizer.specials)
    for one, other in zip(tokenizer.encode(TEXTS), loaded.encode(TEXTS)):
        assert np.array_equal(one, other)
    assert np.array_equal(loaded.token_bytes(), tokenizer.token_bytes())
