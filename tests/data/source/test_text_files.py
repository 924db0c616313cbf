from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.source import _files


def texts(folder: Path, *paths: str, **knobs: object) -> list[str]:
    source = spec("data.source", "text_files", paths=list(paths), **knobs).build(folder=folder)
    return [document.text for shard in source.shards() for document in shard.read()]


CONTENT = "first line\nsecond\n\n\nthird – ü\n  \nfourth\r\nfifth"


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ("file", [CONTENT]),
        ("line", ["first line", "second", "third – ü", "fourth", "fifth"]),
        ("blank_line", ["first line\nsecond", "third – ü", "fourth\nfifth"]),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_documents_are_files_lines_or_paragraphs(tmp_path: Path, document: str, wanted: list[str], name: str) -> None:
    data = CONTENT.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert texts(tmp_path, name, document=document) == wanted


@pytest.mark.parametrize("document", ["line", "blank_line"])
def test_shards_join_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str) -> None:
    paragraphs = [f"paragraph {index}\nwith a second line {'y' * (index % 40)}" for index in range(80)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs) + "\n")
    whole = texts(tmp_path, "a.txt", document=document)
    for size in (40, 41, 97, 500):
        monkeypatch.setattr(_files, "SHARD_BYTES", size)
        assert texts(tmp_path, "a.txt", document=document) == whole


def test_paths_directories_and_globs_each_file_once_in_order(tmp_path: Path) -> None:
    for name in ("b/x.txt", "b/deep/y.txt", "b/.hidden.txt", "b/z.md", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path, "b", "a.txt", "b/*.txt", suffixes=[".txt"]) == ["a.txt", "b/deep/y.txt", "b/x.txt"]
    assert texts(tmp_path, "**/*.md") == ["b/z.md"]
    assert texts(Path("/"), str(tmp_path / "a.txt")) == ["a.txt"]


@pytest.mark.parametrize(
    ("data", "offset"), [(b"\xff", 0), (b"abc\xe9def", 3), (b"line\nli\xc3\x28", 7), (b"a" * 3_000_000 + b"\x80", 3_000_000)]
)
@pytest.mark.parametrize("document", ["file", "line", "blank_line"])
def test_text_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path, data: bytes, offset: int, document: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.txt.*: is not UTF-8: byte 0x\w\w at offset {offset}"):
        texts(tmp_path, "a.txt", document=document)


def test_documents_above_the_limit_are_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word\n" * 1000)
    with pytest.raises(UserError, match="set 'document' to line or blank_line"):
        texts(tmp_path, "a.txt", longest="4 kB")
    with pytest.raises(UserError, match=r"a\.txt:801: the paragraph is longer"):
        texts(tmp_path, "a.txt", document="blank_line", longest="3200 B")


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    data = gzip.compress(bytes(range(32, 127)) * 50)
    (tmp_path / "a.txt.gz").write_bytes(data[:-4])
    with pytest.raises(UserError, match="is truncated"):
        texts(tmp_path, "a.txt.gz")


def test_relative_paths_start_at_the_folder_given(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("here")
    assert texts(tmp_path / "data", "a.txt") == ["here"]
    with pytest.raises(UserError, match="no such file"):
        texts(tmp_path, "a.txt")


def test_the_folder_s_own_name_is_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "x[1]"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt"):
        (folder / name).write_text(name)
    assert texts(folder, "*.txt") == ["a.txt"] and texts(folder, "**/*.txt") == ["a.txt", "deep/b.txt"]
    assert _files.find_files(folder, [str(tmp_path / "*" / "a.txt")]) == [folder / "a.txt"]
    assert not list(_files.absent({"folder": folder}, ["*.txt"])) and list(_files.absent({"folder": folder}, ["*.csv"]))
