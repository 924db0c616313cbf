from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingot.core.resolve import spec
from ingot.data.tokenizer._fast import FastTokenizer


@given(text=st.text())
def test_round_trip_is_exact(text: str) -> None:
    tokenizer = spec("data.tokenizer", "bytes").build()
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text and len(ids) == len(text.encode()) == tokenizer.token_bytes()[ids].sum()


def test_specials_follow_the_bytes() -> None:
    tokenizer = spec("data.tokenizer", "bytes", specials=["mask", "pad"], sentinels=2).build()
    assert tokenizer.specials == {"end": 256, "mask": 257, "pad": 258, "sentinel_0": 259, "sentinel_1": 260}
    assert tokenizer.vocabulary == 261 and tokenizer.end == 256
    assert tokenizer.decode([104, 256, 257, 105]) == "hi" and tokenizer.token_bytes()[256:].tolist() == [0] * 5
    assert tokenizer.identity != spec("data.tokenizer", "bytes").build().identity


def test_the_saved_file_gives_the_same_ids(tmp_path: Path) -> None:
    tokenizer = spec("data.tokenizer", "bytes").build()
    tokenizer.save(tmp_path)
    saved = FastTokenizer.load(tmp_path)
    texts = ["Grüße, 世界\n\t <|end|> done", "", " a  b "]
    for one, two in zip(tokenizer.encode(texts), saved.encode(texts)):
        assert np.array_equal(one, two)
    assert saved.vocabulary == tokenizer.vocabulary and saved.specials == tokenizer.specials
    assert saved.decode(tokenizer.encode([texts[0]])[0]) == texts[0]
