from __future__ import annotations

from pathlib import Path

import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path: Path, groups: int = 4, **columns: list[object]) -> None:
    data = columns or {"text": [f"document {index} " + "x" * 200 for index in range(40)], "key": list(range(40))}
    table = pyarrow.table(data)
    parquet.write_table(table, path, row_group_size=max(1, len(table) // groups))


def source(folder: Path, *paths: str, **knobs: object):
    return spec("data.source", "parquet", paths=list(paths), **knobs).build(folder=folder)


def texts(folder: Path, *paths: str, **knobs: object) -> list[str]:
    return [document.text for shard in source(folder, *paths, **knobs).shards() for document in shard.read()]


def test_reads_rows_in_order_and_ids(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    assert texts(tmp_path, "a.parquet") == [f"document {index} " + "x" * 200 for index in range(40)]
    assert [document.id for document in source(tmp_path, ".", id="key").shards()[0].read()] == [str(index) for index in range(40)]


def test_row_groups_are_shards_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.data.source.parquet.SHARD_BYTES", 100)
    write(tmp_path / "a.parquet")
    shards = source(tmp_path, "a.parquet").shards()
    assert len(shards) == 4 and len({shard.identity for shard in shards}) == 4
    assert len(texts(tmp_path, "a.parquet")) == 40


def test_identity_follows_the_column_read_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=["a", "b"], key=[1, 2])
    write(tmp_path / "b.parquet", text=["a", "b"], key=[3, 4])
    one, two = (source(tmp_path, name) for name in ("a.parquet", "b.parquet"))
    assert one.shards()[0].identity == two.shards()[0].identity
    assert source(tmp_path, "a.parquet", id="key").shards()[0].identity != source(tmp_path, "b.parquet", id="key").shards()[0].identity


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"a\.parquet: is not a whole parquet file") as caught:
        texts(tmp_path, "a.parquet")
    assert "\n" not in str(caught.value)


def test_flipped_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="damaged near row 0"):
        texts(tmp_path, "a.parquet")


def test_wrong_columns_and_values_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", txt=["a"], n=[1])
    with pytest.raises(UserError, match=r"has no column 'text'; it has txt, n\. Did you mean 'txt'\?"):
        source(tmp_path, "a.parquet").shards()
    with pytest.raises(UserError, match="row 0: column 'n' wants text, got int"):
        texts(tmp_path, "a.parquet", column="n")
    write(tmp_path / "b.parquet", text=["a", None])
    with pytest.raises(UserError, match="row 1: column 'text' wants text, got NoneType"):
        texts(tmp_path, "b.parquet")


def test_no_rows_is_an_empty_corpus(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="the corpus is empty"):
        source(tmp_path, "a.parquet").shards()


def test_documents_without_an_id_are_split_by_their_texts(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", groups=1, text=["x", "y", "z"], key=[None, None, 5])
    ids = [document.id for document in source(tmp_path, "a.parquet", id="key").shards()[0].read()]
    assert ids[2] == "5" and len(set(ids)) == 3 and "None" not in ids
