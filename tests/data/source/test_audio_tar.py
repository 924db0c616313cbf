"""Sounds in tar files: members found with what is told beside them; damaged files and members named."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.core.resolve import spec

soundfile = pytest.importorskip("soundfile")


def flac(level: float) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, np.full(400, level, dtype=np.float32), 8000, format="FLAC")
    return held.getvalue()


def write(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def source(folder: Path, **knobs: Any) -> Any:
    return spec("data.source", "audio_tar", **({"paths": ["*.tar"], "seconds": 0.05, "rate": 8000} | knobs)).build(folder=folder)


def test_members_and_what_is_beside_them(tmp_path: Path) -> None:
    write(tmp_path / "b.tar", {"x/1.flac": flac(0.2), "x/1.json": b'{"text": "two", "kind": "b"}'})
    write(tmp_path / "a.tar", {"0.json": b'{"text": "one", "kind": "a"}', "0.flac": flac(0.1)})
    built = source(tmp_path, transcript="text", label="kind")
    found = built.rows(np.arange(2), np.arange(2))
    assert found["waveform"][:, 9].round(2).tolist() == pytest.approx([0.1, 0.2], abs=1e-3)
    assert built.transcripts == ["one", "two"] and found["label"].tolist() == [0, 1] and built.where(1).endswith("b.tar: x/1.flac")


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"0.flac": flac(0.1), "1.flac": b"", "2.flac": flac(0.1)[:60]})
    for row, word in ((1, "holds no sound"), (2, "decoded|cut short")):
        with pytest.raises(UserError, match=f"a.tar: {row}.flac: .*({word})"):
            source(tmp_path).rows(np.array([row]), np.array([row]))
    with pytest.raises(UserError, match=r"label|kind"):
        source(tmp_path, label="kind")
    write(tmp_path / "a.tar", {"0.flac": flac(0.1)}, mode="w:gz")
    with pytest.raises(UserError, match="uncompressed tar"):
        source(tmp_path)
