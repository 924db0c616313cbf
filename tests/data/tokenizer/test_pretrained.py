from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from ingot.core.errors import UserError
from ingot.core.framing import framed
from ingot.core.resolve import spec
from ingot.data.store.token_store import TokenStore
from ingot.data.store.writer import ShardWriter
from ingot.data.text_rows import TextRows
from ingot.data.tokenizer._fast import FastTokenizer


def pretrained(folder: Path, path: str, **knobs: object):
    return spec("data.tokenizer", "pretrained", path=path, **knobs).build(folder=folder)


def word_piece() -> tokenizers.Tokenizer:
    vocab = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##ed", "ü"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.decoder = tokenizers.decoders.WordPiece()
    inner.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return inner


def test_finds_specials_by_their_usual_spellings(tmp_path: Path) -> None:
    word_piece().save(str(tmp_path / "tokenizer.json"))
    tokenizer = pretrained(tmp_path, "tokenizer.json")
    assert tokenizer.end == 3 and tokenizer.specials["mask"] == 4 and tokenizer.specials["pad"] == 0
    assert tokenizer.encode(["playing played"])[0].tolist() == [5, 6, 5, 7]
    assert tokenizer.token_bytes().tolist() == [0, 0, 0, 0, 0, 4, 3, 2, 2]


def test_the_configuration_decides_over_spellings(tmp_path: Path) -> None:
    word_piece().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "[CLS]"}, "mask_token": None}))
    assert pretrained(tmp_path, ".").end == 2
    assert pretrained(tmp_path, ".", end="[PAD]").end == 0


def test_documents_begin_as_the_file_begins_a_text(tmp_path: Path) -> None:
    word_piece().save(str(tmp_path / "tokenizer.json"))
    found = pretrained(tmp_path, ".")
    assert found.begin == 2 and found.encode(["playing"])[0].tolist() == [5, 6]
    assert framed(found.encode(["playing"])[0], found, 9).tolist() == [2, 5, 6, 3]
    assert framed(found.encode(["playing"])[0], found, 3).tolist() == [2, 5, 3]
    assert framed(found.encode(["playing"])[0], found, 1).tolist() == [2]
    closed = pretrained(tmp_path, ".", opens=False)
    assert closed.begin is None and closed.identity != found.identity
    assert framed(closed.encode(["playing"])[0], closed, 9).tolist() == [5, 6, 3]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    assert pretrained(tmp_path, ".").begin is None and pretrained(tmp_path, ".", opens=True).begin == 2
    plain = word_piece()
    plain.post_processor = tokenizers.processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    plain.save(str(tmp_path / "ends.json"))
    assert pretrained(tmp_path, "ends.json").begin is None


def template(vocab: list[str], single: str, specials: list[str], unknown: str | None = None) -> tokenizers.Tokenizer:
    """Letters as tokens, with a rule of its own around a text."""
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={token: index for index, token in enumerate(vocab)}, merges=[], unk_token=unknown)
    )
    inner.add_special_tokens(specials)
    named = [(name, vocab.index(name)) for name in specials]
    inner.post_processor = tokenizers.processors.TemplateProcessing(single=single, special_tokens=named)
    return inner


def test_the_token_that_opens_is_special_whatever_it_is_called(tmp_path: Path) -> None:
    template(["<cls>", "<eos>", "<mask>", "A", "C"], "<cls> $A <eos>", ["<cls>", "<eos>", "<mask>"]).save(str(tmp_path / "tokenizer.json"))
    found = pretrained(tmp_path, ".")
    assert found.begin == 0 == found.specials["begin"] and found.end == 1 and found.encode(["ACA"])[0].tolist() == [3, 4, 3]


def test_a_vocabulary_without_the_letter_a_is_read(tmp_path: Path) -> None:
    template(["</s>", "<s>", "C", "G"], "$A </s>", ["</s>", "<s>"]).save(str(tmp_path / "closed.json"))
    found = pretrained(tmp_path, "closed.json")
    assert found.begin is None and found.end == 0
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"</s>": 0, "hello": 1}))
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "words.json"))
    assert pretrained(tmp_path, "words.json").begin is None


def test_the_token_that_the_file_puts_after_a_text_ends_documents(tmp_path: Path) -> None:
    file = template(["[CLS]", "[SEP]", "<|endoftext|>", "a"], "[CLS] $A [SEP]", ["[CLS]", "[SEP]", "<|endoftext|>"])
    file.save(str(tmp_path / "tokenizer.json"))
    assert pretrained(tmp_path, ".").end == 1 and pretrained(tmp_path, ".", end="<|endoftext|>").end == 2
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    assert pretrained(tmp_path, ".").end == 2


def test_one_token_may_open_and_close(tmp_path: Path) -> None:
    """<|endoftext|> of GPT-2 with add_bos_token: the opening token belongs to the document that it opens."""
    template(["<|endoftext|>", "a", "b"], "<|endoftext|> $A", ["<|endoftext|>"]).save(str(tmp_path / "tokenizer.json"))
    found = pretrained(tmp_path, ".")
    assert found.begin == found.end == 0
    with ShardWriter(tmp_path / "store", found.dtype, found.end, [found.begin]) as writer:
        writer.add("train", found.encode(["ab", "ba"]), [2, 2])
        writer.commit()
    store = TokenStore.open([tmp_path / "store"])
    pack = spec("data.pack", "stream").build(lengths=store.lengths, sequence=8)
    rows = TextRows(store, pack, sequence=8, begin=0, end=0, pad=0).rows(np.array([0]), np.array([0]))
    assert rows["tokens"][0].tolist() == [0, 1, 2, 0, 0, 2, 1, 0]
    assert rows["segments"][0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2] and rows["positions"][0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("opens", [True, False])
def test_what_is_exported_frames_a_text_as_documents_were_framed(opens: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    word_piece().save(str(tmp_path / "tokenizer.json"))
    found = pretrained(tmp_path, ".", opens=opens)
    found.export(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("playing").input_ids == framed(found.encode(["playing"])[0], found, 9).tolist()
    assert pretrained(tmp_path, "out").begin == found.begin


def test_another_end_leaves_the_rest_as_it_was_kept(tmp_path: Path) -> None:
    word_piece().save(str(tmp_path / "tokenizer.json"))
    pretrained(tmp_path, ".", opens=False).save(tmp_path / "kept")
    found = pretrained(tmp_path, "kept", end="[PAD]")
    assert found.begin is None and found.end == 0 and found.specials["mask"] == 4


@pytest.mark.parametrize("opens", [True, False])
def test_what_a_run_kept_begins_as_it_did(opens: bool, tmp_path: Path) -> None:
    word_piece().save(str(tmp_path / "tokenizer.json"))
    found = pretrained(tmp_path, ".", opens=opens)
    found.save(tmp_path / "kept")
    for again in (FastTokenizer.load(tmp_path / "kept"), pretrained(tmp_path, "kept")):
        assert again.begin == found.begin and again.identity == found.identity
    kept = json.loads((tmp_path / "kept" / "ingot.json").read_text())
    del kept["opens"]  # as written before documents began with a token
    (tmp_path / "kept" / "ingot.json").write_text(json.dumps(kept))
    assert pretrained(tmp_path, "kept").begin is None


def test_sentence_piece_bytes(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "</s>": 1, "<0xE4>": 2, "▁the": 3, "é": 4, "▁": 5}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    inner.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    inner.add_special_tokens(["</s>", "<unk>"])
    inner.save(str(tmp_path / "t.json"))
    assert pretrained(tmp_path, "t.json").token_bytes().tolist() == [0, 0, 1, 4, 2, 1]


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such tokenizer file"):
        pretrained(tmp_path, "missing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json: is not a tokenizer\.json"):
        pretrained(tmp_path, "bad.json")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "words.json"))
    with pytest.raises(UserError, match="has no end-of-text token that is known; name it with 'end'"):
        pretrained(tmp_path, "words.json")
    with pytest.raises(UserError, match="has no token 'c' to end documents with"):
        pretrained(tmp_path, "words.json", end="c")
    assert pretrained(tmp_path, "words.json", end="b").end == 1
