from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.core.seams import Document, Shard
from ingot.data import open as module
from ingot.data.open import Data, HeldOutRows, open_data
from ingot.data.tokenizer import bpe


def corpus(folder: Path, names: str = "ab", rows: int = 300) -> None:
    for name in names:
        (folder / f"{name}.txt").write_text("\n".join(f"{name} line {index} " + "word " * (index % 13) for index in range(rows)))


def text(name: str) -> dict[str, Any]:
    return {"name": "text_files", "paths": [f"{name}.txt"], "document": "line"}


def opened(folder: Path, **changes: Any) -> Data:
    train = spec("data.source", "mixture", sources={"a": text("a"), "b": text("b")})
    given = {
        "train": train,
        "tokenizer": spec("data.tokenizer", "bytes"),
        "sequence": 32,
        "pack": spec("data.pack", "stream"),
        "cache": Path("cache"),
        "folder": folder,
        "seed": 1,
    }
    return open_data(**(given | changes))


def test_opens_trains_and_validates_on_other_documents(tmp_path: Path) -> None:
    corpus(tmp_path)
    data = opened(tmp_path, holdout=0.1, pack=spec("data.pack", "document", long="cut"), sequence=128)
    ids = {name: np.arange(len(rows)) for name, rows in data.train.sources.items()}
    kept = {data.tokenizer.decode(row) for name, rows in data.train.sources.items() for row in rows.rows(ids[name], ids[name])["tokens"]}
    held = {data.tokenizer.decode(row) for stream in data.validation.values() for row in stream.batch(0, stream.rows_per_epoch)["tokens"]}
    assert set(data.validation) == {"a", "b"} and not kept & held and len(kept | held) == 600 and 30 < len(held) < 90
    assert {(item["source"], item["split"]) for item in data.report} == {(s, x) for s in "ab" for x in ("train", "validation")}
    assert sum(item["documents"] for item in data.report) == 600
    packed = data.train.sources["a"].pack.report()
    assert packed["cut"] == 0 < packed["padding"]


def test_a_validation_source_of_its_own(tmp_path: Path) -> None:
    corpus(tmp_path, "abv")
    data = opened(tmp_path, validation=spec("data.source", **text("v")))
    assert list(data.validation) == ["text_files"]
    text_of = data.tokenizer.decode(data.validation["text_files"].batch(0, 300)["tokens"].reshape(-1))
    assert "v line" in text_of and "a line" not in text_of
    with pytest.raises(UserError, match="'validation' and 'holdout' both"):
        opened(tmp_path, validation=spec("data.source", **text("v")), holdout=0.1)


def test_identity_says_when_the_rows_are_the_same(tmp_path: Path) -> None:
    corpus(tmp_path)
    first = opened(tmp_path).identity
    assert opened(tmp_path).identity == first
    assert len({first, opened(tmp_path, sequence=64).identity, opened(tmp_path, holdout=0.1).identity}) == 3
    (tmp_path / "a.txt").write_text("other\ntext")
    assert opened(tmp_path).identity != first


def test_a_trained_tokenizer_is_kept_and_trained_again_for_other_texts(tmp_path: Path) -> None:
    corpus(tmp_path)
    bpe = spec("data.tokenizer", "bpe", vocabulary=300)
    one, two = opened(tmp_path, tokenizer=bpe).tokenizer, opened(tmp_path, tokenizer=bpe).tokenizer
    kept = list((tmp_path / "cache" / "tokenizers").glob("*/tokenizer.json"))
    assert len(kept) == 1 and one.identity == two.identity
    (tmp_path / "a.txt").write_text("quite different words\n" * 50)
    assert opened(tmp_path, tokenizer=bpe).tokenizer.identity != one.identity


REFUSED = [
    ({"holdout": 0.1, "train": spec("data.source", "text_files", paths=["a.txt"])}, "left no document to validate on|nothing to train on"),
    ({"holdout": 1.0}, "wants a share from 0 to below 1"),
    ({"tokenizer": None}, "needs a tokenizer"),
    ({"only_prepared": True}, "2 of 2 shards of the data are not prepared .*: run 'ingot prepare' first"),
    ({"only_prepared": True, "tokenizer": spec("data.tokenizer", "bpe")}, "the tokenizer is not trained yet .*: run 'ingot prepare' first"),
    ({"cache": Path("a.txt/cache")}, r"data\.cache: .* cannot be made: Not a directory"),
    ({"train": spec("data.source", "text_files", paths=["missing.txt"])}, r"missing\.txt: no such file"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_opened_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    corpus(tmp_path)
    with pytest.raises(UserError, match=message):
        opened(tmp_path, **changes)


def test_prepared_data_opens_where_nothing_may_be_prepared(tmp_path: Path) -> None:
    corpus(tmp_path)
    assert opened(tmp_path).identity == opened(tmp_path, only_prepared=True).identity


RANK = """
import sys, time
from pathlib import Path
from ingot.core.resolve import spec
from ingot.data import open as module, prepare
if sys.argv[2] == "waits":
    prepare._run = module._train = None
train = spec("data.source", "text_files", paths=["a.txt"], document="line")
data = module.open_data(train=train, tokenizer=spec("data.tokenizer", "bpe", vocabulary=300), sequence=32, pack=spec("data.pack", "best_fit"),
                        cache=Path("cache"), folder=Path(sys.argv[1]), seed=1)
print(data.identity)
"""


def test_other_ranks_wait_for_the_first_and_never_prepare(tmp_path: Path) -> None:
    corpus(tmp_path)

    def start(rank: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RANK, str(tmp_path), "waits" if rank else "works"]
        return subprocess.Popen(command, env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, text=True)

    others = [start(1), start(2)]
    time.sleep(3)
    assert [child.poll() for child in others] == [None, None] and not list((tmp_path / "cache").glob("tokens/*"))
    results = {child.communicate(timeout=120)[0] for child in (start(0), *others)}
    assert len(results) == 1 and results != {""}


class Pictures:
    def __len__(self) -> int:
        return 1000

    def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"pixels": ids[:, None]}


def test_rows_are_held_out_by_their_number() -> None:
    sides = [HeldOutRows(Pictures(), 0.2, split) for split in ("train", "validation")]
    assert sorted(np.concatenate([side.ids for side in sides]).tolist()) == list(range(1000)) and 150 < len(sides[1]) < 250
    assert sides[1].rows(np.array([3]), np.array([0]))["pixels"][0, 0] == sides[1].ids[3]


def test_real_documents_of_three_kinds(shared_data: Path, tmp_path: Path) -> None:
    paths = {
        "wiki": "text/wiki/validation.jsonl.gz",
        "code": "text/code_python/validation.jsonl.gz",
        "zh": "text/zh_web/validation.jsonl.gz",
    }
    train = spec("data.source", "mixture", sources={name: {"name": "jsonl", "paths": [path]} for name, path in paths.items()})
    data = opened(shared_data, train=train, cache=tmp_path / "cache", holdout=0.1)
    counts = {item["source"]: item for item in data.report if item["split"] == "train"}
    assert counts["wiki"]["bytes"] == counts["wiki"]["tokens"] - counts["wiki"]["documents"]
    assert sum(item["documents"] for item in data.report) == 60 + 66 + 125
    batch = data.train.batch(0, 64)
    assert batch["tokens"].shape == (64, 32) and set(batch["source"].tolist()) >= {0, 1}


def test_a_tokenizer_is_trained_on_few_shards_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many, those that lie evenly among them come first; of few, one document of each in turn."""
    monkeypatch.setattr(module, "OPEN", 3)
    reading: set[int] = set()
    most = 0

    def read(number: int) -> Iterator[Document]:
        nonlocal most
        reading.add(number)
        most = max(most, len(reading))
        yield from (Document(f"{number}/{index}", f"{number}/{index}") for index in range(2))
        reading.discard(number)

    shards = [Shard(str(number), str(number), partial(read, number)) for number in range(10)]
    texts = list(module._texts(shards, 0.0))
    assert most == 3 and sorted(texts) == sorted(f"{number}/{index}" for number in range(10) for index in range(2))
    assert texts[:3] == ["0/0", "4/0", "8/0"]
    assert list(module._texts(shards[:2], 0.0)) == ["0/0", "1/0", "0/1", "1/1"]


def test_captions_that_are_held_out_train_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    limited = bpe._limited
    monkeypatch.setattr(bpe, "_limited", lambda texts, most: limited((given.append(text) or text for text in texts), most))
    knobs = {"count": 40, "classes": 40, "size": 12, "captions": True}
    images = spec("data.source", "synthetic_images", **knobs)
    data = opened(tmp_path, train=images, tokenizer=spec("data.tokenizer", "bpe", vocabulary=258), holdout=0.3)
    captions, held = images.build().captions(), data.validation["synthetic_images"].sources["synthetic_images"].ids
    assert sorted(given) == sorted(set(captions) - {captions[id] for id in held}) and len(held)


def test_identity_tells_shares_that_differ_by_little_and_how_captions_become_ids(tmp_path: Path) -> None:
    corpus(tmp_path)

    def shares(a: float) -> str:
        weights = {"a": a, "b": 1 - a}
        return opened(tmp_path, train=spec("data.source", "mixture", sources={"a": text("a"), "b": text("b")}, weights=weights)).identity

    assert shares(0.50021) == shares(0.50021) != shares(0.50079)
    images = spec("data.source", "synthetic_images", count=20, size=12, captions=True)
    masks = [spec("data.tokenizer", "bytes", specials=specials) for specials in (["mask"], ["mask", "pad"])]
    assert len({opened(tmp_path, train=images, tokenizer=one).identity for one in masks}) == 2


def test_rows_of_one_side_are_named_as_the_source_names_them() -> None:
    side = HeldOutRows(spec("data.source", "synthetic_images", count=40).build(), 0.3, "train")
    assert [side.where(index) for index in range(len(side))] == [f"synthetic image {id}" for id in side.ids]
    assert HeldOutRows(Pictures(), 0.3, "train").where(0).startswith("row ")
