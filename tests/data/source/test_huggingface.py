from __future__ import annotations

from pathlib import Path

import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec

datasets = pytest.importorskip("datasets")


def source(folder: Path, path: str, **knobs: object):
    return spec("data.source", "huggingface", path=path, **knobs).build(folder=folder)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    rows = {"text": [f"text {index}" for index in range(3000)], "key": list(range(3000))}
    whole = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict({"train": whole, "test": whole.select(range(5))}).save_to_disk(str(tmp_path / "set"))
    whole.save_to_disk(str(tmp_path / "single"))
    return tmp_path


def test_reads_a_saved_folder(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.data.source.huggingface.SHARD_BYTES", 5000)
    shards = source(saved, "set", id="key").shards()
    documents = [document for shard in shards for document in shard.read()]
    assert len(shards) == 3
    assert [(document.id, document.text) for document in documents] == [(str(index), f"text {index}") for index in range(3000)]
    assert [shard.identity for shard in source(saved, "single", id="key").shards()] == [shard.identity for shard in shards]
    assert len(list(source(saved, "set", split="test").shards()[0].read())) == 5


def test_wrong_names_are_refused(saved: Path) -> None:
    with pytest.raises(UserError, match="has no split 'validation'; it has train, test"):
        source(saved, "set", split="validation").shards()
    with pytest.raises(UserError, match=r"has no column 'texts'; it has text, key\. Did you mean 'text'\?"):
        source(saved, "set", column="texts").shards()
    with pytest.raises(UserError, match="row 0: column 'key' wants text, got int"):
        source(saved, "set", column="key").shards()
    (saved / "empty").mkdir()
    with pytest.raises(UserError, match="empty: cannot be opened as a data set"):
        source(saved, "empty").shards()
