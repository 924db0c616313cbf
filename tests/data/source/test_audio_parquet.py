"""Sounds in parquet: samples, rates, channels, texts, filters; damaged rows named and passed over within the allowance."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec

soundfile = pytest.importorskip("soundfile")
pyarrow = pytest.importorskip("pyarrow")
writer = pytest.importorskip("pyarrow.parquet")
RATE = 8000


def wav(values: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    held = io.BytesIO()
    soundfile.write(held, values, rate, format=kind, subtype="PCM_16")
    return held.getvalue()


def tone(f: float, seconds: float = 0.1, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * f * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def source(folder: Path, sounds: list[Any], columns: dict[str, list[Any]] | None = None, **knobs: Any) -> Any:
    writer.write_table(pyarrow.table({"audio": sounds, **(columns or {})}), folder / "sounds.parquet", row_group_size=3)
    return spec("data.source", "audio_parquet", **({"paths": ["sounds.parquet"], "seconds": 0.1, "rate": RATE} | knobs)).build(
        folder=folder
    )


def rows(built: Any, *ids: int) -> dict[str, np.ndarray]:
    return built.rows(np.array(ids), np.array(ids) + 100)


def test_samples_lengths_and_labels(tmp_path: Path) -> None:
    built = source(
        tmp_path, [wav(tone(400)), wav(tone(600, 0.05), kind="FLAC"), wav(tone(500, 0.2))], {"word": ["b", "a", "b"]}, label="word"
    )
    found = rows(built, 0, 1, 2)
    assert found["lengths"].tolist() == [800, 400, 800] and found["label"].tolist() == [1, 0, 1]
    np.testing.assert_allclose(found["waveform"][0], tone(400), atol=1e-4)
    assert not found["waveform"][1, 400:].any() and built.seconds_per_row == 0.1


def test_another_rate_keeps_the_tone(tmp_path: Path) -> None:
    value = rows(source(tmp_path, [wav(tone(440, rate=RATE))], rate=16000), 0)["waveform"][0]
    np.testing.assert_allclose(value[100:-100], tone(440, rate=16000)[100:-100], atol=5e-3)


def test_channels_are_averaged_or_refused(tmp_path: Path) -> None:
    stereo = wav(np.stack([tone(400), -tone(400)], axis=1))
    assert abs(rows(source(tmp_path, [stereo]), 0)["waveform"]).max() < 1e-3
    with pytest.raises(UserError, match=r"sounds\.parquet row 0: has 2 channels"):
        rows(source(tmp_path, [stereo], convert=False), 0)


BROKEN = [
    wav(tone(400)),
    b"no sound",
    wav(np.zeros(0, dtype=np.float32)),
    None,
    wav(tone(300))[:700],
    wav(tone(300), kind="FLAC")[:200],
    wav(tone(100, 0.01)),
]


def test_bad_rows_are_named_and_refused(tmp_path: Path) -> None:
    built = source(tmp_path, BROKEN, shortest=0.05)
    for row, word in (
        (1, "cannot be decoded"),
        (2, "empty"),
        (3, "holds no sound"),
        (4, "cut short"),
        (5, "cannot be decoded|cut short"),
        (6, "lasts 0.01 s"),
    ):
        with pytest.raises(UserError, match=f"sounds.parquet row {row}: .*({word})"):
            rows(built, row)


def test_within_the_allowance_they_become_padding(tmp_path: Path) -> None:
    built = source(tmp_path, BROKEN, shortest=0.05, skip=0.9)
    found = rows(built, *range(7))
    assert found["rows"].tolist() == [100, -1, -1, -1, -1, -1, -1] and not found["waveform"][1:].any()
    assert len(built.notices()) == 6 and not built.notices()


def test_filters_and_transcripts(tmp_path: Path) -> None:
    sounds = [wav(tone(100 * (1 + number))) for number in range(6)]
    columns = {"speaker": ["x", "y", "z"] * 2, "text": ["one", "two", "three", "four", "five", "a long word"]}
    built = source(tmp_path, sounds, columns, transcript="text", drop={"speaker": ["y"]}, skip=0.5)
    assert len(built) == 4 and built.where(1).endswith("row 2")
    said = built.with_tokenizer(spec("data.tokenizer", "bytes").build(), 8)
    found = rows(said, 0, 1, 3)
    assert bytes(found["transcript"][1, :5].astype(np.uint8)) == b"three" and found["transcript"][1, 5] == -100
    assert found["rows"].tolist() == [100, 101, -1]  # the last one does not fit, and is not cut
    with pytest.raises(UserError, match="holds no row"):
        source(tmp_path, sounds, columns, keep={"speaker": ["w"]})
    with pytest.raises(UserError, match="no column 'word'"):
        source(tmp_path, sounds, columns, transcript="word")


def test_a_crop_moves_codes_with_it(tmp_path: Path) -> None:
    """Codes say where in the clip a sample lies; after a crop they still do."""
    ramp = np.arange(1600, dtype=np.float32) / 3200
    built = source(tmp_path, [wav(ramp)])
    built.annotate("codes", np.arange(20, dtype=np.int32), np.array([0, 20]), 80, 20)
    crop = built.augmented([spec("data.augment", "random_crop").build()], 1, seed=3)
    starts = set()
    for number in range(20):
        found = crop.rows(np.array([0]), np.array([number]))
        first = round(float(found["waveform"][0, 0]) * 3200)
        starts.add(first)
        assert found["codes"][0, 0] == first // 80 and found["codes"].shape == (1, 10)
        assert np.array_equal(found["waveform"], crop.rows(np.array([0]), np.array([number]))["waveform"])
    assert len(starts) > 10 and max(starts) > 400
