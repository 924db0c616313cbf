"""Corpora that cannot be read: each is one line that names the file and the place in it; what was prepared before stays."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOOD = "the of and a to in is you that it he was for on are as with his they\n" * 40


@pytest.fixture
def prepare(ingot: Any, write: Any, tmp_path: Path) -> Callable[..., list[str]]:
    """Prepares a corpus beside one that is prepared already, and wants to be refused with words; `train` is refused with the same line."""
    base = write({"data": {"train": {"name": "text_files", "paths": ["left"]}, "holdout": 0.0}}, name="base")
    assert ingot("prepare", base)[0] == 0
    stores = tmp_path / ".ingot" / "tokens"

    def run(source: dict[str, Any], *words: str, status: int = 2, problems: int = 1, both: bool = False) -> list[str]:
        path = write({"data": {"train": None, "holdout": 0.0}}, {"data": {"train": source}}, name="bad")
        before = {item.name for item in stores.iterdir()}
        lines: list[str] = ingot.refuses(
            "prepare", path, status=status, words=words, problems=problems, keeps=(stores, tmp_path / "left", tmp_path / "right")
        )
        if both:
            ingot.refuses("train", path, status=status, words=words, problems=problems, keeps=(stores,))
            assert not (tmp_path / "runs" / "bad" / "ledger.jsonl").exists()
        assert not [item for item in stores.iterdir() if ".aside-" in item.name], "unfinished work is left behind"
        assert before <= {item.name for item in stores.iterdir()}
        return lines

    return run


def text(name: str, data: bytes, **knobs: Any) -> dict[str, Any]:
    Path(name).write_bytes(data)
    return {"name": "text_files", "paths": [name]} | knobs


# -- empty ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", ["file", "line", "blank_line"])
def test_an_empty_file(prepare: Any, tmp_path: Path, document: str) -> None:
    prepare(text("empty.txt", b"", document=document), "empty.txt", "the corpus is empty", both=document == "file")


@pytest.mark.parametrize(
    "data", [b" \n\t\n  \n", b"\n\n\n\n", b"\xef\xbb\xbf", b"\r\n\r\n"], ids=["spaces", "line ends", "byte-order mark", "CRLF"]
)
def test_nothing_but_white_space(prepare: Any, data: bytes) -> None:
    document = "line" if data.strip() != b"\xef\xbb\xbf" else "file"
    prepare(text("white.txt", data, document=document), "white.txt", "empty")


def test_an_empty_folder(prepare: Any) -> None:
    Path("nothing").mkdir()
    prepare({"name": "text_files", "paths": ["nothing"]}, "nothing", "no file", both=True)


def test_a_folder_of_other_files(prepare: Any) -> None:
    Path("other").mkdir()
    Path("other/a.pdf").write_bytes(b"x")
    prepare({"name": "text_files", "paths": ["other"], "suffixes": [".txt"]}, "other", ".txt")


def test_empty_compressed_files(prepare: Any) -> None:
    prepare(text("empty.txt.gz", gzip.compress(b"")), "empty.txt.gz", "empty")
    prepare(text("none.txt.gz", b""), "none.txt.gz", "empty")


def test_json_lines_without_a_line(prepare: Any) -> None:
    Path("a.jsonl").write_text("\n \n\n")
    prepare({"name": "jsonl", "paths": ["a.jsonl"]}, "a.jsonl", "empty")
    Path("b.jsonl").write_text('{"text": ""}\n' * 5)
    prepare({"name": "jsonl", "paths": ["b.jsonl"]}, "b.jsonl", "empty")


def test_one_empty_source_of_a_mixture_is_named(prepare: Any) -> None:
    sources = {"full": {"name": "text_files", "paths": ["left"]}, "hollow": text("hollow.txt", b"")}
    prepare({"name": "mixture", "sources": sources}, "hollow")


def test_everything_is_held_out(ingot: Any, write: Any) -> None:
    Path("one.txt").write_text(GOOD)
    path = write({"data": {"train": None}}, {"data": {"train": {"name": "text_files", "paths": ["one.txt"]}, "holdout": 0.99}})
    ingot.refuses("train", path, status=2, words=("text_files", "0.99"))


# -- missing -------------------------------------------------------------------------------------------------------------------


def test_missing_files_are_all_named(ingot: Any, write: Any) -> None:
    path = write(
        {"data": {"train": None}}, {"data": {"train": {"name": "text_files", "paths": ["left", "lost", "gone/*.txt", "nowhere/a.txt"]}}}
    )
    ingot.refuses("train", path, status=2, words=("lost", "gone/*.txt", "nowhere/a.txt"), problems=3)


def test_a_link_to_nothing(prepare: Any) -> None:
    Path("dangling.txt").symlink_to("nowhere.txt")
    prepare({"name": "text_files", "paths": ["dangling.txt"]}, "dangling.txt")


def test_a_file_that_goes_away_while_it_is_read(prepare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.data.source import _files

    Path("fleeting.txt").write_text(GOOD)
    real = _files.file_shards

    def vanishing(*arguments: Any, **knobs: Any) -> Any:
        found = real(*arguments, **knobs)
        Path("fleeting.txt").unlink(missing_ok=True)
        return found

    monkeypatch.setattr("ingot.data.source.text_files.file_shards", vanishing)
    prepare({"name": "text_files", "paths": ["fleeting.txt"]}, "fleeting.txt", "No such file")


def test_a_device_in_place_of_a_file(prepare: Any) -> None:
    prepare({"name": "text_files", "paths": ["/dev/null"]}, "/dev/null")


# -- not UTF-8 -----------------------------------------------------------------------------------------------------------------

ENCODINGS = {
    "latin-1": ("caf\xe9 " * 9).encode("latin-1"),
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-32": GOOD.encode("utf-32"),
    "shift-jis": "日本語".encode("shift-jis") * 9,
    "a broken end": "naïve".encode()[:3],
    "surrogates": b"abc \xed\xa0\x80 def",
    "overlong": b"abc \xc0\xaf def",
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("case", ENCODINGS)
def test_text_that_is_not_utf8(prepare: Any, case: str) -> None:
    prepare(text("bad.txt", ENCODINGS[case]), "bad.txt", "not UTF-8", "offset", both=case == "latin-1")


def test_the_line_is_named(prepare: Any) -> None:
    prepare(text("bad.txt", b"good\ngood\n\xff bad\ngood\n", document="line"), "bad.txt:3", "not UTF-8")
    Path("bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    prepare({"name": "jsonl", "paths": ["bad.jsonl"]}, "bad.jsonl:2", "not UTF-8")


def test_late_damage_names_the_byte(prepare: Any) -> None:
    prepare(text("late.txt", b"a" * 3_000_000 + b"\xff"), "late.txt", "offset 3000000")


# -- strange but text ------------------------------------------------------------------------------------------------------------

FINE = {
    "a byte-order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "CRLF": GOOD.replace("\n", "\r\n").encode(),
    "old line ends": GOOD.replace("\n", "\r").encode(),
    "NUL bytes": GOOD.replace("the", "t\0e").encode(),
    "one long line": GOOD.replace("\n", " ").encode() * 400,
    "no line end": GOOD.strip().encode(),
    "beyond the basic plane": ("😀 \U0010ffff \u202e " * 200).encode(),
    "the end token spelled out": b"<|end|> <|mask|> " * 200,
}


@pytest.mark.parametrize("case", FINE)
@pytest.mark.parametrize("document", ["file", "line"])
def test_strange_text_is_text(ingot: Any, write: Any, case: str, document: str) -> None:
    Path("fine.txt").write_bytes(FINE[case])
    path = write(
        {"data": {"train": None, "holdout": 0.0}}, {"data": {"train": {"name": "text_files", "paths": ["fine.txt"], "document": document}}}
    )
    status, out, err = ingot("prepare", path, "--json")
    assert status == 0, err
    wanted = FINE[case].removeprefix(b"\xef\xbb\xbf")
    rows = json.loads(out)["stores"][0]["rows"]
    lines = [line for line in wanted.split(b"\n") if line.strip()]
    count = len(wanted) + 1 if document == "file" else sum(len(line.removesuffix(b"\r")) + 1 for line in lines)
    assert rows == -(-count // 32) or rows == count // 32


# -- damaged ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 9, 12, 40, -9, -1])
def test_truncated_gzip(prepare: Any, keep: int) -> None:
    prepare(text("cut.txt.gz", gzip.compress(os.urandom(300).hex().encode())[:keep]), "cut.txt.gz", "truncated")


def test_gzip_with_something_behind_it(prepare: Any) -> None:
    prepare(text("tail.txt.gz", gzip.compress(GOOD.encode()) + b"garbage"), "tail.txt.gz", "damaged")


def test_flipped_gzip(prepare: Any) -> None:
    data = bytearray(gzip.compress(os.urandom(300).hex().encode()))
    data[100] ^= 0x10
    prepare(text("flip.txt.gz", bytes(data)), "flip.txt.gz")


def test_a_name_that_lies(prepare: Any) -> None:
    prepare(text("plain.txt.gz", GOOD.encode()), "plain.txt.gz", "gzip")
    prepare(text("plain.txt.zst", GOOD.encode()), "plain.txt.zst", "zstd")


LINES = {
    "a list": ("[1, 2]", "object"),
    "a word": ('"text"', "object"),
    "a number": ("3", "object"),
    "null": ("null", "object"),
    "another field": ('{"txet": "x"}', "it has txet"),
    "no field": ("{}", "no field 'text'"),
    "null text": ('{"text": null}', "wants text"),
    "a number for text": ('{"text": 3}', "wants text"),
    "a list for text": ('{"text": ["x"]}', "wants text"),
    "half a line": ('{"text": "x', "not valid JSON"),
    "two objects": ('{"text": "x"} {"text": "y"}', "not valid JSON"),
    "single quotes": ("{'text': 'x'}", "not valid JSON"),
    "a lone surrogate": ('{"text": "\\ud800"}', "surrogate"),
    "deep nesting": ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "deep"),
    "a control character": ('{"text": "a\tb"}', "not valid JSON"),
    "a number of 10,000 digits": ('{"text": ' + "9" * 10_000 + "}", "r.jsonl"),
    "not a number": ('{"text": NaN}', "wants text"),
}


@pytest.mark.parametrize("case", LINES)
def test_lines_that_are_no_document(prepare: Any, case: str) -> None:
    line, word = LINES[case]
    Path("r.jsonl").write_text('{"text": "the of and"}\n' * 4 + line + '\n{"text": "to in is"}\n')
    prepare({"name": "jsonl", "paths": ["r.jsonl"]}, "r.jsonl:5", word, both=case == "null text")


def parquet(name: str, column: Any = None, label: str = "text", **write: Any) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({label: column if column is not None else [GOOD[index:] for index in range(50)]}), name, **write)
    return Path(name)


@pytest.mark.parametrize("keep", [0, 3, 8, 0.3, 0.9, -8, -4, -1])
def test_truncated_parquet(prepare: Any, keep: float) -> None:
    path = parquet("cut.parquet")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)] if isinstance(keep, float) else data[:keep])
    prepare({"name": "parquet", "paths": ["cut.parquet"]}, "cut.parquet", both=keep == 0.3)


def test_parquet_of_other_columns(prepare: Any) -> None:
    parquet("a.parquet", label="content")
    prepare({"name": "parquet", "paths": ["a.parquet"]}, "a.parquet", "no column 'text'", "content")
    prepare({"name": "parquet", "paths": ["a.parquet"], "column": "content", "id": "url"}, "a.parquet", "no column 'url'")


@pytest.mark.parametrize(
    "column",
    [[1, 2, 3], [1.5], [True], [["x"]], [{"x": "y"}], ["x", None], [b"\xff\xfe"]],
    ids=["ints", "floats", "truths", "lists", "structs", "nulls", "bytes"],
)
def test_parquet_of_other_types(prepare: Any, column: list[Any]) -> None:
    parquet("t.parquet", column)
    prepare({"name": "parquet", "paths": ["t.parquet"]}, "t.parquet", "text")


def test_parquet_without_rows_and_what_is_no_parquet(prepare: Any) -> None:
    import pyarrow as pa

    parquet("none.parquet", pa.array([], pa.string()))
    prepare({"name": "parquet", "paths": ["none.parquet"]}, "none.parquet", "empty")
    Path("text.parquet").write_text(GOOD)
    prepare({"name": "parquet", "paths": ["text.parquet"]}, "text.parquet", "not a whole parquet file")


def test_flipped_parquet(prepare: Any) -> None:
    path = parquet("flip.parquet", [os.urandom(40).hex() for _ in range(200)], write_page_checksum=True, compression="snappy")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    prepare({"name": "parquet", "paths": ["flip.parquet"]}, "flip.parquet", "damaged")
