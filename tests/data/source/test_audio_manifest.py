"""Manifests of sounds: jsonl, tsv with a header, fairseq's tsv; what is missing is named by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec

soundfile = pytest.importorskip("soundfile")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / "clips" / f"{number}.wav", np.full(400, 0.1 * (number + 1), dtype=np.float32), 8000)
    return tmp_path


def source(folder: Path, name: str, text: str, **knobs: Any) -> Any:
    (folder / name).write_text(text)
    return spec("data.source", "audio_manifest", **({"paths": [name], "seconds": 0.05, "rate": 8000} | knobs)).build(folder=folder)


def levels(built: Any) -> list[float]:
    return [round(float(value), 2) for value in built.rows(np.arange(len(built)), np.arange(len(built)))["waveform"][:, 7]]


def test_three_kinds(folder: Path) -> None:
    lines = [{"path": f"clips/{number}.wav", "text": f"word {number}", "kind": number % 2} for number in (2, 0, 1)]
    built = source(folder, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines), audio="path", transcript="text", label="kind")
    assert levels(built) == [0.3, 0.1, 0.2] and built.transcripts == ["word 2", "word 0", "word 1"] and built.labels.tolist() == [0, 0, 1]
    assert levels(source(folder, "b.tsv", 'audio\ttext\nclips/1.wav\tone "two\n', transcript="text")) == [0.2]
    assert levels(source(folder, "c.tsv", f"{folder / 'clips'}\n2.wav\t400\n0.wav\t400\n")) == [0.3, 0.1]


def test_bad_lines_and_files_are_named(folder: Path) -> None:
    for text, message in (("{}\n", "a.jsonl:1.*has no 'audio'"), ("{\n", "a.jsonl:1.*not JSON"), ("", "lists no sound")):
        with pytest.raises(UserError, match=message):
            source(folder, "a.jsonl", text)
    built = source(folder, "b.jsonl", '{"audio": "clips/0.wav"}\n{"audio": "clips/nowhere.wav"}\n')
    with pytest.raises(UserError, match=r"b.jsonl:2 \(nowhere.wav\): cannot be read"):
        levels(built)


def test_digits_are_words_where_they_are_said_and_numbers_where_they_count(folder: Path) -> None:
    text = "audio\ttext\tkind\n" + "".join(f"clips/{number}.wav\t{said}\t{number}\n" for number, said in enumerate(("0", "007", "5")))
    built = source(folder, "a.tsv", text, transcript="text", label="kind")
    assert built.transcripts == ["0", "007", "5"] and built.labels.tolist() == [0, 1, 2]


def test_an_empty_label_is_no_class(folder: Path) -> None:
    for name, mark in (("a.csv", ","), ("b.tsv", "\t")):
        text = f"audio{mark}kind\n" + "".join(f"clips/{number}.wav{mark}{kind}\n" for number, kind in enumerate(("1", " ", "0")))
        with pytest.raises(UserError, match=rf"{name}:3 \(1\.wav\): field 'kind' is empty"):
            source(folder, name, text, label="kind")


def test_lines_end_where_files_end_them(folder: Path) -> None:
    """Not at what else ends a line in Unicode, which may stand within a text; blank lines count in the line that is named."""
    said = "one\u2028two\x85three\x0cfour"
    line = json.dumps({"audio": "clips/0.wav", "text": said}, ensure_ascii=False)
    assert source(folder, "a.jsonl", f"{line}\r\n{line}\n", audio="audio", transcript="text").transcripts == [said, said]
    for name, mark in (("b.csv", ","), ("b.tsv", "\t")):
        built = source(folder, name, f"audio{mark}text\n\nclips/1.wav{mark}{said}\n\n", transcript="text")
        assert built.transcripts == [said] and built.where(0).endswith(f"{name}:3 (1.wav)")
        with pytest.raises(UserError, match=f"{name}:4: wants 2 columns"):
            source(folder, name, f"audio{mark}text\n\n\nclips/1.wav\n", transcript="text")
    text = f'audio,text\nclips/1.wav,"one\ntwo"\nclips/0.wav,{"x" * 140_000}\n'
    assert source(folder, "c.csv", text, transcript="text").transcripts == ["one\ntwo", "x" * 140_000]
    assert len(source(folder, "c.tsv", f"{folder / 'clips'}\n2.wav\t400\n\n")) == 1
