"""Sound files listed in a manifest: jsonl, tsv or csv with a header, or fairseq's tsv (a folder, then ``path<tab>samples`` lines).

A line is a row. Paths in it start at the manifest's folder (in fairseq's: at the folder of its first line). What the sounds are known by,
where something is kept of them, are the manifest's content and the files' sizes: their contents would have to be read whole at every start.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.parts import Fraction, NonNegative, Positive, part
from ...core.resolve import nearest
from ._csv import LONGEST
from ._files import bad, find_files
from ._fingerprint import Range, digest, fingerprints
from ._images import spelled
from ._sounds import SoundFiles, spoken


@part
class AudioManifest(SoundFiles):
    """paths: manifests. seconds: of a row; rate: samples a second. audio, label, transcript: fields of a line. The rest as in
    ``audio_parquet``."""

    def __init__(
        self,
        folder: Path,
        *,
        paths: list[str],
        seconds: Positive[float],
        rate: Positive[int] = 16000,
        audio: str = "audio",
        label: str | None = None,
        transcript: str | None = None,
        classes: Positive[int] | None = None,
        shortest: NonNegative[float] = 0.0,
        convert: bool = True,
        mels: Positive[int] | None = None,
        skip: Fraction = 0.0,
    ):
        super().__init__(rate=rate, seconds=seconds, shortest=shortest, convert=convert, mels=mels, skip=skip)
        wanted = list(filter(None, (label, transcript)))
        manifests = find_files(Path(folder), paths, [".jsonl", ".tsv", ".csv"])
        self.lines: list[tuple[Path, int, Path]] = []  # manifest, line, sound
        beside: dict[str, list[Any]] = {name: [] for name in wanted}
        for path in manifests:
            for number, values in _read(path, audio):
                for name in (audio, *wanted):
                    if name not in values:
                        raise bad(f"{path}:{number}", f"has no {name!r}. {nearest(name, list(values))}".strip())
                self.lines.append((path, number, Path(values.get("", path.parent)) / str(values[audio])))
                for name in wanted:
                    beside[name].append(values[name])
        if not self.lines:
            raise bad(manifests[0], "lists no sound")
        sizes = [path.stat().st_size if path.is_file() else -1 for *_, path in self.lines]
        self.identity = digest(
            "audio_manifest",
            1,
            fingerprints([Range(path, 0, path.stat().st_size) for path in manifests]),
            sizes,
            audio,
            label,
            transcript,
            rate,
        )
        if transcript:
            self.transcripts = spoken(beside[transcript])
        if label:
            self.number(spelled(beside[label]), classes, f"field {label!r}")

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        manifest, number, path = self.lines[index]
        return f"{manifest}:{number} ({path.name})"

    def encoded(self, index: int) -> Path:
        return self.lines[index][2]


def _read(path: Path, audio: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and fields; the field "" is a folder that paths start at. Raises UserError with file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad(path, f"is not UTF-8 at byte {error.start}") from None
    lines = text.split("\n")  # and at nothing else that ends a line in Unicode, which may stand within a text
    if path.suffix == ".jsonl":
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _object(path, number, line)
        return
    mark = "\t" if path.suffix == ".tsv" else ","
    if path.suffix == ".tsv" and mark not in lines[0] and lines[0].strip() != audio:
        for number, line in enumerate(lines[1:], 2):
            if line.strip():
                yield number, {"": path.parent / lines[0].strip(), audio: line.partition(mark)[0]}
        return
    csv.field_size_limit(LONGEST)
    rows = csv.DictReader(io.StringIO(text), delimiter=mark, quoting=csv.QUOTE_NONE if mark == "\t" else csv.QUOTE_MINIMAL)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise bad(f"{path}:{rows.line_num}", f"wants {len([name for name in row if name is not None])} columns, as the header has")
            yield rows.line_num, dict(row)
    except csv.Error as error:
        raise bad(f"{path}:{rows.line_num}", f"cannot be read as csv: {error}") from None


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise bad(f"{path}:{number}", f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise bad(f"{path}:{number}", f"wants an object, got {type(found).__name__}")
    return found
