"""Sounds in tar files: ``name.wav`` (or flac, ogg) beside ``name.txt`` and ``name.cls`` or ``name.json``, as WebDataset keeps them.

A sound is a row; the order is that of the files and of the members in them. The tars are not unpacked: members are read where they
lie, so compressed tars are refused.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from ...core.parts import Fraction, NonNegative, Positive, part
from ..rows import BadRow
from ._files import bad, find_files
from ._fingerprint import Range, digest, fingerprints
from ._images import spelled
from ._sounds import SUFFIXES, SoundFiles, spoken


@part
class AudioTar(SoundFiles):
    """paths: tar files. seconds: of a row; rate: samples a second. label, transcript: the members beside a sound that hold its class and
    its text, such as ``cls`` and ``txt``, or a key of its ``json``. The rest as in ``audio_parquet``."""

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        seconds: Positive[float],
        rate: Positive[int] = 16000,
        label: str | None = None,
        transcript: str | None = None,
        classes: Positive[int] | None = None,
        shortest: NonNegative[float] = 0.0,
        convert: bool = True,
        mels: Positive[int] | None = None,
        skip: Fraction = 0.0,
    ):
        super().__init__(rate=rate, seconds=seconds, shortest=shortest, convert=convert, mels=mels, skip=skip)
        files = find_files(Path(folder), paths, [".tar"])
        self.members: list[tuple[Path, str, int, int]] = []  # file, name, first byte, bytes
        beside: list[dict[str, Any]] = []
        for path in files:
            self._index(path, beside, any((label, transcript)))
        if not self.members:
            raise bad(files[0], f"holds no sound ({', '.join(SUFFIXES[:4])})")
        self.identity = digest(
            "audio_tar", 1, fingerprints([Range(path, 0, path.stat().st_size) for path in files]), label, transcript, rate
        )
        if transcript:
            self.transcripts = spoken(found.get(transcript) for found in beside)
        if label:
            self.number(spelled([found.get(label) for found in beside]), classes, label)

    def _index(self, path: Path, beside: list[dict[str, Any]], read: bool) -> None:
        """Where every sound lies, and what is told beside it."""
        told: dict[str, dict[str, Any]] = {}
        sounds: list[str] = []
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    stem, _, suffix = member.name.rpartition(".")
                    if f".{suffix}" in SUFFIXES:
                        self.members.append((path, member.name, member.offset_data, member.size))
                        sounds.append(stem)
                    elif read:
                        told.setdefault(stem, {}).update(_told(path, member.name, suffix, tar.extractfile(member).read()))  # type: ignore[union-attr]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise bad(path, f"is not a whole, uncompressed tar file: {error}") from None
        beside += [told.get(stem, {}) for stem in sounds]

    def __len__(self) -> int:
        return len(self.members)

    def where(self, index: int) -> str:
        path, name, _, _ = self.members[index]
        return f"{path}: {name}"

    def encoded(self, index: int) -> bytes:
        path, _, start, size = self.members[index]
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise BadRow(f"cannot be read: {error.strerror}") from None


def _told(path: Path, name: str, suffix: str, data: bytes) -> dict[str, Any]:
    try:
        text = data.decode("utf-8")
        return dict(json.loads(text)) if suffix == "json" else {suffix: text.strip()}
    except (UnicodeDecodeError, ValueError, TypeError):
        if suffix == "json":
            raise bad(path, f"{name} is not a JSON object") from None
        return {}
