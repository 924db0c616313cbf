from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.source import _files


def texts(folder: Path, *paths: str, **knobs: object) -> list[str]:
    return [document.text for shard in source(folder, *paths, **knobs).shards() for document in shard.read()]


def source(folder: Path, *paths: str, **knobs: object):
    return spec("data.source", "jsonl", paths=list(paths), **knobs).build(folder=folder)


def line(text: str, **more: object) -> str:
    return json.dumps({"text": text} | more, ensure_ascii=False) + "\n"


def compress(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    return pytest.importorskip("zstandard").compress(data)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_reads_documents_in_order(tmp_path: Path, name: str) -> None:
    wanted = ["one", "zwei\nLines", "三", ""]
    data = "\ufeff".encode() + "\r\n".join(line(text).strip() for text in wanted).encode() + b"\n\n"
    (tmp_path / name).write_bytes(data if name == "a.jsonl" else compress(name, data))
    assert texts(tmp_path, name) == wanted


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_concatenated_members_are_read_through(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(compress(name, line("a").encode()) + compress(name, line("b").encode()))
    assert texts(tmp_path, name) == ["a", "b"]


def test_large_files_are_cut_into_shards_that_keep_their_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "SHARD_BYTES", 300)
    wanted = [f"document {index} " + "x" * (index % 50) for index in range(100)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(map(line, wanted)))
    before = source(tmp_path, "a.jsonl").shards()
    assert len(before) > 10 and texts(tmp_path, "a.jsonl") == wanted
    path.write_text("".join(map(line, [*wanted, "one more"])))
    after = source(tmp_path, "a.jsonl").shards()
    assert [shard.identity for shard in after[: len(before) - 1]] == [shard.identity for shard in before[:-1]]
    assert texts(tmp_path, "a.jsonl") == [*wanted, "one more"]


def test_identity_is_content_not_name_and_knows_its_settings(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line("x", body="y"))
    (tmp_path / "b.jsonl").write_text(line("x", body="y"))
    one, two = (source(tmp_path, name).shards()[0].identity for name in ("a.jsonl", "b.jsonl"))
    assert one == two != source(tmp_path, "a.jsonl", field="body").shards()[0].identity


def test_ids_come_from_the_field_or_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line("x", key=7) + line("x", key=8))
    with_id = [document.id for document in source(tmp_path, "a.jsonl", id="key").shards()[0].read()]
    without = [document.id for document in source(tmp_path, "a.jsonl").shards()[0].read()]
    assert with_id == ["7", "8"] and without[0] == without[1]


BAD = [
    (b'{"text": "fine"}\n{"text": "cut of\n', r"a\.jsonl:2: is not valid JSON: .* at column 10"),
    (b'{"text": "fine"}\n\n[1, 2]\n', r"a\.jsonl:3: wants a JSON object, got list"),
    (b'{"txt": "x", "url": "y"}\n', r"a\.jsonl:1: has no field 'text'; it has txt, url\. Did you mean 'txt'\?"),
    (b'{"text": 5}\n', r"a\.jsonl:1: field 'text' wants text, got int"),
    (b'{"text": null}\n', r"a\.jsonl:1: field 'text' wants text, got NoneType"),
    (b"{}\n", r"a\.jsonl:1: has no field 'text'; it has none"),
    (b'{"text": "a"}\n{"text": "\\ud800"}\n', r"a\.jsonl:2: holds a lone surrogate"),
    (b'{"text": "ok"}\n' + b"[" * 200_000 + b"\n", r"a\.jsonl:2: is nested too deeply"),
    (b'{"text": "a"} {"text": "b"}\n', r"a\.jsonl:1: is not valid JSON: Extra data"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_malformed_lines_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        texts(tmp_path, "a.jsonl")
    assert "\n" not in str(caught.value)


NOT_UTF8 = [
    (b'{"text": "caf\xe9"}\n', r"a\.jsonl:1: is not UTF-8: byte 0xe9 at offset 13"),
    (b'{"text": "a"}\n{"text": "\xff"}\n', r"a\.jsonl:2: is not UTF-8: byte 0xff at offset 24"),
    ('{"text": "a"}\n'.encode("utf-16"), r"a\.jsonl:1: is not UTF-8: byte 0xff at offset 0 \(it looks like UTF-16\)"),
    (b'{"text": "\xc3"}\n', r"is not UTF-8: byte 0xc3 at offset 10"),
    (b'{"text": "x"}\r\n{"text": "\xed\xa0\x80"}\n', r"a\.jsonl:2: is not UTF-8: byte 0xed at offset 25"),
]


@pytest.mark.parametrize(("data", "message"), NOT_UTF8)
def test_text_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=message):
        texts(tmp_path, "a.jsonl")


def test_line_numbers_count_from_the_file_also_in_later_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "SHARD_BYTES", 100)
    (tmp_path / "a.jsonl").write_text("".join(line(f"document {index}") for index in range(50)) + "{oops\n")
    with pytest.raises(UserError, match=r"a\.jsonl:51: is not valid JSON"):
        texts(tmp_path, "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("keep", [0.999, 0.6, 0.3, 0.05])
def test_truncated_files_are_refused(tmp_path: Path, name: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(97, 123, 200_000, dtype=np.uint8).tobytes().decode()
    data = compress(name, "".join(line(noise[at : at + 1000]) for at in range(0, 200_000, 1000)).encode())
    (tmp_path / name).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=rf"{name}: is truncated: the (gzip|zstd) data ends in the middle"):
        texts(tmp_path, name)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    good = bytearray(compress(name, line("words " * 1000).encode()))
    for data in (b"not compressed at all", bytes(good) + b"trailing rubbish", bytes(good[:2]) + b"\x00\x00\x00" + bytes(good[5:])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}: is damaged|{name}: is truncated"):
            texts(tmp_path, name)


def test_a_huge_line_is_refused_before_it_is_held(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line("short") + line("y" * 4_000_000))
    with pytest.raises(UserError, match=r"a\.jsonl:2: the line is longer than 1,000,000 bytes; split it or raise 'longest'"):
        texts(tmp_path, "a.jsonl", longest="1 MB")


EMPTY = [
    ({"a.jsonl": ""}, ["a.jsonl"], "the corpus is empty"),
    ({"a.jsonl": "", "b.jsonl": ""}, ["*.jsonl"], "the corpus is empty: .* and 1 more"),
    ({}, ["missing.jsonl"], r"missing\.jsonl: no such file or directory"),
    ({"a.txt": "x"}, ["*.jsonl"], r"\*\.jsonl: the pattern matches no file"),
    ({"folder/.hidden": "x"}, ["folder"], "folder: the directory holds no file"),
    ({"folder/a.txt": "x"}, ["folder"], r"folder: the directory holds no file with suffix \.jsonl"),
    ({"a.jsonl": "x"}, [], "paths: names no file"),
]


@pytest.mark.parametrize(("files", "paths", "message"), EMPTY)
def test_missing_and_empty_input_is_refused_at_once(tmp_path: Path, files: dict[str, str], paths: list[str], message: str) -> None:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(data)
    suffixes = [".jsonl"] if "suffix" in message else None
    with pytest.raises(UserError, match=message):
        source(tmp_path, *paths, suffixes=suffixes).shards()


def test_every_missing_path_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        source(tmp_path, "a.jsonl", "b/*.jsonl", "c").shards()
    assert len(caught.value.problems) == 3


def test_many_small_files_share_shards_and_an_edit_moves_few(tmp_path: Path) -> None:
    for index in range(_files.GROUP_ABOVE + 50):
        (tmp_path / f"{index:04}.jsonl").write_text(line(f"{index} " + "x" * 200_000))
    before = [shard.identity for shard in source(tmp_path, ".").shards()]
    assert 2 <= len(before) < 60 and len(texts(tmp_path, ".")) == _files.GROUP_ABOVE + 50
    (tmp_path / "0100a.jsonl").write_text(line("new " + "x" * 200_000))
    after = [shard.identity for shard in source(tmp_path, ".").shards()]
    assert len(set(after) - set(before)) <= 3


def test_documents_without_an_id_are_split_by_their_texts(tmp_path: Path) -> None:
    """Not all of them to one side."""
    (tmp_path / "a.jsonl").write_text(line("x", key=None) + line("y", key=None) + line("z", key=0))
    (shard,) = source(tmp_path, "a.jsonl", id="key").shards()
    (bare,) = source(tmp_path, "a.jsonl").shards()
    ids, texts = ([document.id for document in one.read()] for one in (shard, bare))
    assert ids == [*texts[:2], "0"] and len(set(ids)) == 3
