"""Tokenizers that cannot be used, and those that are not the ones that the store or the weights were made with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ingot.ledger.ledger import read

NEWEST = Path("runs/tiny/checkpoints/step-00000006")
FILES = {
    "no file": (None, "no such tokenizer file"),
    "empty": ("", "tokenizer.json"),
    "cut": ('{"version": "1.0", "truncation": nu', "tokenizer.json"),
    "a list": ("[]", "tokenizer.json"),
    "a model that nobody knows": ('{"version": "1.0", "model": {"type": "Magic"}}', "tokenizer.json"),
    "binary": ("\x00\x01\x02", "tokenizer.json"),
    "a folder": ("folder", "tokenizer.json"),
}


def bpe(folder: str, vocabulary: int, text: str) -> Path:
    """A trained tokenizer in a folder."""
    from ingot.core.resolve import spec

    spec("data.tokenizer", "bpe", vocabulary=vocabulary).build(texts=lambda: iter([text])).save(Path(folder))
    return Path(folder)


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_tokenizer(ingot: Any, write: Any, case: str) -> None:
    text, word = FILES[case]
    if text == "folder":
        Path("model/tokenizer.json").mkdir(parents=True)
    elif text is not None:
        Path("model").mkdir()
        Path("model/tokenizer.json").write_text(text)
    path = write({"data": {"tokenizer": {"name": "pretrained", "path": "model"}}})
    ingot.refuses("prepare", path, status=2, words=("model", word))
    ingot.refuses("train", path, status=2, words=("model", word))
    assert not list(Path("runs").rglob("ledger.jsonl"))


def test_a_damaged_description_beside_it(ingot: Any, write: Any) -> None:
    bpe("model", 300, "the of and " * 99)
    path = write({"data": {"tokenizer": {"name": "pretrained", "path": "model"}}})
    for name, text in (
        ("ingot.json", "{"),
        ("ingot.json", "[]"),
        ("ingot.json", '{"specials": {"end": 99999}}'),
        ("tokenizer_config.json", "[3"),
        ("special_tokens_map.json", "\x00"),
    ):
        kept = Path("model", name).read_text()
        Path("model", name).write_text(text)
        ingot.refuses("prepare", path, status=2, words=(name,))
        Path("model", name).write_text(kept)
    ingot.refuses("prepare", path, "data.tokenizer.end=<|nope|>", status=2, words=("<|nope|>", "tokenizer.json"))
    assert ingot("prepare", path)[0] == 0


def test_a_kept_tokenizer_that_is_damaged(ingot: Any, write: Any, tmp_path: Path) -> None:
    path = write({"data": {"tokenizer": {"name": "bpe", "vocabulary": 300}}})
    assert ingot("prepare", path)[0] == 0
    (kept,) = tmp_path.glob(".ingot/tokenizers/*/tokenizer.json")
    for text in ("", "{", "[]"):
        kept.write_text(text)
        ingot.refuses("train", path, status=2, words=(str(kept.parent.relative_to(tmp_path)),))
    kept.unlink()
    assert ingot("prepare", path)[0] == 0, "what is gone is made anew"


@pytest.mark.parametrize(
    "change", [{"tokenizer": "0" * 40}, {"dtype": "uint32"}, {"tokenizer": 3}, {"format": 99}, {"splits": {}}], ids=str
)
def test_a_store_of_another_tokenizer(ingot: Any, place: Path, change: dict[str, Any]) -> None:
    """A description that does not fit is refused or prepared again; never read as if it did."""
    shutil.rmtree(NEWEST)
    (meta,) = list(Path(".ingot/tokens").glob("*/meta.json"))[:1]
    meta.write_text(json.dumps(json.loads(meta.read_text()) | change))
    status, _, err = ingot("train", "tiny.yaml")
    assert "internal error" not in err, err
    if status:
        assert status == 2 and str(meta.parent) in err and "prepare" in err, err
    else:
        assert json.loads(meta.read_text())["format"] == 1


@pytest.mark.parametrize("damage", ["cut", "gone", "longer"])
def test_a_damaged_store_is_made_anew(ingot: Any, place: Path, damage: str) -> None:
    before = ingot.fingerprint(*Path(".ingot/tokens").glob("*/*.tokens"))
    path = max(Path(".ingot/tokens").glob("*/train.tokens"), key=lambda item: item.stat().st_size)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-2])
        case "gone":
            path.unlink()
        case "longer":
            path.write_bytes(path.read_bytes() + b"xx")
    assert ingot("prepare", "tiny.yaml")[0] == 0
    assert ingot.fingerprint(*Path(".ingot/tokens").glob("*/*.tokens")) == before


def test_weights_of_another_vocabulary(ingot: Any, place: Path) -> None:
    bpe("model", 300, "the of and " * 99)
    ingot.refuses(
        "train",
        "tiny.yaml",
        "name=b",
        "data.tokenizer={name: pretrained, path: model}",
        "--from",
        "runs/tiny",
        status=2,
        words=("embedding.weight", "step-00000006"),
        keeps=(place / "runs" / "tiny",),
    )


def test_a_vocabulary_below_the_tokenizers(ingot: Any, write: Any) -> None:
    ingot.refuses("train", write({"model": {"vocabulary": 100}}), status=2, words=("model.vocabulary", "100", "258"))


def trained_with_a_file(ingot: Any, place: Path) -> None:
    bpe("model", 300, "the of and a to in is you that it he was for on are as with his they " * 9)
    assert ingot("train", "tiny.yaml", "name=p", "data.tokenizer={name: pretrained, path: model}")[0] == 0


def test_a_tokenizer_that_was_exchanged_under_the_run(ingot: Any, place: Path) -> None:
    """The same file name and vocabulary size, other ids: the run keeps to the one it began with."""
    trained_with_a_file(ingot, place)
    commands = (("evaluate", "runs/p", "--json"), ("generate", "runs/p", "the", "--json", "--tokens", "9"))
    before = [ingot(*argv)[:2] for argv in commands]
    assert [status for status, _ in before] == [0, 0]
    shutil.rmtree("model")
    bpe("model", 300, "zebra quagga onager kiang zebra quagga tapir okapi " * 99)
    assert [ingot(*argv)[:2] for argv in commands] == before
    losses = [line["loss"] for line in read("runs/p") if line["kind"] == "step"]
    shutil.rmtree("runs/p/checkpoints/step-00000006")
    status, _, err = ingot("train", "tiny.yaml", "name=p", "data.tokenizer={name: pretrained, path: model}")
    assert status == 0, err
    assert [line["loss"] for line in read("runs/p") if line["kind"] == "step"] == losses


def test_a_corpus_that_was_exchanged_under_the_run_is_said(ingot: Any, place: Path) -> None:
    shutil.rmtree(NEWEST)
    assert ingot("train", "tiny.yaml")[0] == 0
    assert not [line for line in read("runs/tiny") if "data has changed" in line.get("message", "")]
    shutil.rmtree(NEWEST)
    Path("left/new.txt").write_text("other words " * 99)
    status, out, err = ingot("train", "tiny.yaml")
    assert status == 0 and "data has changed" in out + err, err
    assert [line for line in read("runs/tiny") if line["kind"] == "event" and "data has changed" in line["message"]]
