"""What sources of sound share: decoding, one channel, one rate, a largest length, mel bands, texts as transcripts, columns of codes.

A row is cut to its first ``seconds``, or, where ``data.augment`` has ``random_crop``, at a drawn place; shorter ones are filled with
zeros, and ``lengths`` says how much is real. With ``mels`` a row holds ``frames`` instead of its waveform.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError, missing_extra
from ...core.seams import Field
from ..rows import BadRow, Row, Rows, augmented_fields
from ._files import absent
from ._images import classified
from ._signal import log_mel, resample

PARTS = 8
SUFFIXES = [".wav", ".flac", ".ogg", ".mp3", ".opus", ".WAV", ".FLAC"]


def soundfile() -> Any:
    """The package, or the error that names the extra."""
    try:
        import soundfile as found
    except ImportError:
        raise missing_extra("soundfile", "audio") from None
    return found


class Sounds(Rows):
    """rate: samples a second. seconds: of a row, padding included. shortest: clips below so many seconds are bad rows. convert: whether
    several channels are averaged, instead of being a bad row. mels: bands, or None for the waveform.

    labels, classes, transcripts: of every row, set by the source where there are any. columns: what an annotator found, by key: see
    ``annotate``; shared by all copies of a source (augmented, held out), so that it can be set when they are open already.
    """

    def __init__(self, *, rate: int, seconds: float, shortest: float, convert: bool, mels: int | None, skip: float):
        super().__init__(skip=skip)
        self.rate, self.shortest, self.convert, self.mels = rate, shortest, convert, mels
        self.hop = rate // 100 if mels else 1
        self.size = round(rate * seconds) // self.hop
        self.labels: np.ndarray | None = None
        self.classes: int | None = None
        self.names: list[str] = []
        self.transcripts: list[str] | None = None
        self.columns: dict[str, tuple[np.ndarray, np.ndarray, int, int]] = {}

    # -- what a source of sound says ------------------------------------------------------------------------------------------

    def encoded(self, index: int) -> bytes | Path:
        """The sound file's bytes, or where it lies. Raises BadRow."""
        raise NotImplementedError

    # -- what it gets ---------------------------------------------------------------------------------------------------------

    @property
    def seconds_per_row(self) -> float:
        """Length of a row, padding included."""
        return self.size * self.hop / self.rate

    def stored(self) -> dict[str, Field]:
        fields = sound_fields(self.rate, self.size * self.hop / self.rate, self.mels)
        if self.labels is not None:
            fields["label"] = Field((), "int64", self.classes)
        return fields | {
            key: Field((-(-self.size * self.hop // hop),), "int64", values) for key, (_, _, hop, values) in self.columns.items()
        }

    def read_fields(self) -> dict[str, Field]:
        text = transcript_fields(self._tokens[1]) if self._tokens else {}
        return augmented_fields(self.stored() | text, self.augments, self.views)

    def captions(self) -> Sequence[str] | None:
        return self.transcripts

    def with_tokenizer(self, tokenizer: Any, sequence: int) -> Rows:
        """The same rows with what was said as ids, -100 behind; at most ``sequence`` of them, for a transcript is not cut."""
        if self.transcripts is None:
            return self
        other = copy.copy(self)
        other._skips = self.skips
        other._tokens = (tokenizer.encode([text.strip() for text in self.transcripts]), sequence)
        other.reading = [*self.reading, tokenizer.identity]
        return other

    def _text(self, index: int) -> Row:
        if self._tokens is None:
            return {}
        encoded, length = self._tokens
        ids = encoded[index]
        if not 0 < len(ids) <= length:
            raise BadRow(f"the transcript has {len(ids)} ids, data.sequence allows {length}" if len(ids) else "the transcript is empty")
        result = np.full(length, -100, dtype=np.int64)
        result[: len(ids)] = ids
        return {"transcript": result}

    def number(self, values: Sequence[Any], classes: int | None, what: str) -> None:
        """Take labels. Raises UserError for one that is missing or out of range."""
        self.labels, self.names, self.classes = classified(values, classes, what, self.where)

    # -- one row --------------------------------------------------------------------------------------------------------------

    def sound(self, index: int) -> np.ndarray:
        """The whole clip, (S,) float32 at ``rate``. Raises BadRow."""
        return self.checked(*decoded(self.encoded(index)))

    def checked(self, x_SC: np.ndarray, rate: int) -> np.ndarray:
        """One channel at the wanted rate. Raises BadRow for clips that are empty, too short, of several channels, or not finite."""
        if not len(x_SC):
            raise BadRow("the clip is empty")
        if len(x_SC) < self.shortest * rate:
            raise BadRow(f"the clip lasts {len(x_SC) / rate:.3g} s, shortest allows {self.shortest:g}")
        if x_SC.shape[1] > 1 and not self.convert:
            raise BadRow(f"has {x_SC.shape[1]} channels, 1 is wanted (convert: true averages them)")
        if not np.isfinite(x_SC).all():
            raise BadRow("holds samples that are not finite")
        return resample(np.ascontiguousarray(x_SC.mean(axis=1, dtype=np.float32)), rate, self.rate)

    def row(self, index: int) -> Row:
        x_S = self.sound(index)
        row: Row = {"frames": log_mel(x_S, self.rate, self.mels)} if self.mels else {"waveform": x_S}
        if self.mels and not len(row["frames"]):
            raise BadRow("the clip is shorter than a frame")
        row |= {} if self.labels is None else {"label": int(self.labels[index])}
        return row | {key: values[starts[index] : starts[index + 1]] for key, (values, starts, _, _) in self.columns.items()}

    def augmented(self, augments: Sequence[Any], views: int, seed: int) -> Rows:
        """As the base's. Raises UserError for a crop behind masks of stretches of time, which may lie behind the cut."""
        for place, augment in enumerate(augments):
            if hasattr(augment, "place") and (before := [one for one in augments[:place] if getattr(one, "in_time", False)]):
                names = [type(one).__name__ for one in (augment, before[0])]
                raise UserError(f"data.augment: {names[0]} stands behind {names[1]}, whose changes it may cut off; put it first")
        return super().augmented(augments, views, seed)

    def _changed(self, row: Row, draw: np.random.Generator, view: int) -> Row:
        """As the base's, of what a row has room for; a crop moves what lies beside the sound with it."""
        row = dict(row)
        if not any(hasattr(augment, "place") for augment in self.augments):
            key = "frames" if self.mels else "waveform"
            row[key] = row[key][: self.size]
        for augment in self.looks[view]:
            if hasattr(augment, "place"):
                start = augment.place(len(row[augment.reads]), self.size, draw)
                row[augment.reads] = row[augment.reads][start : start + self.size]
                row |= {key: row[key][start * self.hop // hop :] for key, (_, _, hop, _) in self.columns.items()}
            else:
                row[augment.reads] = augment(row[augment.reads], draw)
        return self.finish(row)

    def finish(self, row: Row) -> Row:
        key = "frames" if self.mels else "waveform"
        value = row[key][: self.size]
        fixed = np.zeros((self.size, *value.shape[1:]), dtype=np.float32)
        fixed[: len(value)] = value
        result = row | {key: fixed, "lengths": len(value)}
        for name, (_, _, hop, _) in self.columns.items():
            codes = np.full(-(-self.size * self.hop // hop), -100, dtype=np.int64)
            there = row[name][: -(-len(value) * self.hop // hop)]
            codes[: len(there)] = there
            result[name] = codes
        return result

    # -- lengths --------------------------------------------------------------------------------------------------------------

    def length(self, index: int) -> int:
        """Samples of a clip at ``rate``, from what its file says of itself; 0 of one that cannot be read, which is noted when it is. One
        whose file does not say counts as a whole row."""
        try:
            found = self.encoded(index)
            about = soundfile().info(str(found) if isinstance(found, Path) else io.BytesIO(found))
        except Exception:  # as in decoded
            return 0
        return -(-about.frames * self.rate // about.samplerate) if 0 < about.frames < 2**48 else self.size * self.hop

    def lengths(self) -> np.ndarray:
        """(rows,) int64: how much of every row is real, in samples or frames."""
        return np.array([min(self.length(index) // self.hop, self.size) for index in range(len(self))], dtype=np.int64)

    def cut_to(self, longest: int) -> int:
        """What rows are cut to whose longest is so long: an eighth of a row or a multiple, so that there are few shapes."""
        step = -(-self.size // PARTS)
        return min(self.size, max(1, -(-longest // step)) * step)

    def trimmed(self, batch: dict[str, np.ndarray], longest: int) -> dict[str, np.ndarray]:
        """A batch without what lies behind its longest row."""
        size = self.cut_to(longest)
        batch = batch | {"lengths": np.minimum(batch["lengths"], size)}
        sizes = {"frames" if self.mels else "waveform": size} | {
            key: -(-size * self.hop // hop) for key, (_, _, hop, _) in self.columns.items()
        }
        return {key: value[:, : sizes[name]] if (name := _of_view(key)) in sizes else value for key, value in batch.items()}

    # -- annotators -----------------------------------------------------------------------------------------------------------

    def annotate(self, key: str, values: np.ndarray, starts: np.ndarray, hop: int, kinds: int) -> None:
        """Add a column: ``values[starts[i]:starts[i + 1]]`` for row i, one every ``hop`` samples from the start of the clip, ``kinds`` of
        them. It is cut as the row is."""
        self.columns[key] = (values, starts, hop, kinds)


class SoundFiles(Sounds):
    """Sources that read files: what they have in common as parts. paths, label, transcript, classes are knobs of each."""

    def __init__(self, **more: Any):
        super().__init__(**more)
        self.reading = [self.size, self.mels, self.shortest, self.convert]
        soundfile()

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from absent(context, knobs["paths"])

    @staticmethod
    def with_text(knobs: dict[str, Any]) -> bool:
        """What was said becomes ids."""
        return bool(knobs["transcript"])

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field] | None:
        """What the recipe alone says."""
        return known_fields(knobs, sequence)

    @staticmethod
    def text_fields(sequence: int) -> dict[str, Field]:
        """What text beside a sound becomes."""
        return transcript_fields(sequence)


def _of_view(key: str) -> str:
    """The key that a further view's belongs to."""
    name, _, view = key.rpartition("_")
    return name if view.isdigit() else key


def decoded(found: bytes | Path) -> tuple[np.ndarray, int]:
    """(S, C) float32 from -1 to 1, and the rate. Raises BadRow."""
    package = soundfile()
    try:
        data = found.read_bytes() if isinstance(found, Path) else found
    except OSError as error:
        raise BadRow(f"cannot be read: {error.strerror}") from None
    if not data:
        raise BadRow("holds no sound")
    told = int.from_bytes(data[4:8], "little") + 8
    if data[:4] == b"RIFF" and len(data) + 1 < told < 2**32 - 1:  # the decoder would take what is left for the whole
        raise BadRow(f"is cut short: {len(data)} of {told} bytes")
    try:
        with package.SoundFile(io.BytesIO(data)) as file:
            values = file.read(dtype="float32", always_2d=True)
            wanted, rate = file.frames, file.samplerate
    except Exception as error:  # decoders fail in many ways on damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(": ")[2] or type(error).__name__
        raise BadRow(f"the sound cannot be decoded: {reason.rstrip('.')}") from None
    if 0 < wanted < 2**48 and len(values) < wanted:
        raise BadRow(f"is cut short: {len(values)} of {wanted} samples")
    return values, rate


def spoken(values: Iterable[Any]) -> list[str]:
    """Transcripts as they are written, numbers too; nothing where there is none."""
    return ["" if value is None else str(value) for value in values]


def sound_fields(rate: int, seconds: float, mels: int | None) -> dict[str, Field]:
    """Of rows that hold sound."""
    hop = rate // 100 if mels else 1
    size = round(rate * seconds) // hop
    value = {"frames": Field((size, mels))} if mels else {"waveform": Field((size,))}
    return value | {"lengths": Field((), "int64")}


def transcript_fields(sequence: int) -> dict[str, Field]:
    """What text beside a sound becomes."""
    return {"transcript": Field((sequence,), "int64")}


def known_fields(knobs: Mapping[str, Any], sequence: int) -> dict[str, Field] | None:
    """What a recipe says of a source of sound whose knobs have these usual names."""
    if knobs["label"] and knobs["classes"] is None:
        return None
    label = {"label": Field((), "int64", knobs["classes"])} if knobs["label"] else {}
    text = transcript_fields(sequence) if knobs["transcript"] else {}
    return sound_fields(knobs["rate"], knobs["seconds"], knobs["mels"]) | label | text
