"""The ledger of a run: ``ledger.jsonl``, one JSON object per line, appended as the run goes; and its copies for other viewers.

Every line has its ``kind`` first:

    start       time, commit, version, machine, recipe_hash, parameters, choices
    step        stage, step, rows, tokens, flops, seconds (cumulative over the run), loss, losses, lr, grad_norm, step_*, phases, ...
    evaluation  step, tokens, flops, seconds, took, results: {source: {loss, perplexity, bits_per_byte, tokens}}
    event       step, name, message, ...
    sample      step, prompt, text
    end         step, tokens, flops, seconds, wall_seconds (of this sitting and those before it that came to their end), reason

Each line is one write to a file opened for appending, so a killed run leaves at most one partial line, at the end. Reading passes
over it, and opening the ledger again cuts it off. Numbers that JSON lacks (not a number, infinities) are written as null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.atomic import write_text
from ..core.errors import RunError

FILE = "ledger.jsonl"
STEPPED = ("step", "evaluation", "event", "sample", "end")
AGAIN = ("annotate", "data_end", "hook", "transform")  # events that a resumed run meets again where its checkpoint has not seen them
BACK = ("rollback", "out_of_memory")  # events that tell the step from which a run went on after them


class Ledger:
    """Writer. Opening an existing ledger appends to it, after cutting off a partial last line.

    viewers: objects with ``write(line)`` and ``close()`` that get a copy of every line (TensorBoard, W&B).
    durable: also wait for the disk at every line; without it a power cut (not a killed process) may lose the last seconds.
    """

    def __init__(self, folder: str | Path, viewers: tuple[Any, ...] = (), *, durable: bool = False):
        self.path = Path(folder) / FILE
        self.viewers = viewers
        self._durable = durable
        self.count = 0  # of its lines
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            whole = _whole_length(self._descriptor)
            if whole != os.fstat(self._descriptor).st_size:
                os.ftruncate(self._descriptor, whole)
            self.count = sum(1 for _ in read_lines(self.path))
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def write(self, kind: str, **entries: Any) -> dict[str, Any]:
        """Append one line; returns it as written. Tensors and numpy numbers become plain numbers.

        Raises RunError when the disk is full or gone; the ledger then ends with the line before.
        """
        line = {"kind": kind} | {key: plain(value) for key, value in entries.items()}
        data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        size = os.fstat(self._descriptor).st_size
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            if self._durable:
                os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from None
        self.count += 1
        for viewer in self.viewers:
            viewer.write(line)
        return line

    def wall_seconds(self) -> float:
        """What the last ``end`` line says, or the ``start`` of a sitting that came to none; ask before ``truncate_after`` drops it."""
        told = [line for line in read_lines(self.path) if line["kind"] in ("start", "end")]
        return float(told[-1].get("wall_seconds") or 0.0) if told else 0.0

    def truncate_after(self, step: int, seen: int | None = None) -> int:
        """Drop what a resumed run will live through again: every line of a later step, and an ``end``. Returns the count of dropped lines.

        seen: how many lines there were at the checkpoint; of those after them, what comes again at its own step is dropped too.

        Events of later steps that tell why the run stopped are kept, marked ``"replayed": true``, unless they are of an earlier replay.
        The file is replaced at once: a kill in the middle leaves the old or the new ledger.
        """
        lines = list(read_lines(self.path))
        known = len(lines) if seen is None else seen
        found = (_after_rewind(line, step, unseen=number >= known) for number, line in enumerate(lines))
        kept = [line for line in found if line is not None]
        if kept == lines:
            return 0
        write_text(self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND, 0o644)
        self.count = len(kept)
        return len(lines) - len(kept)

    def close(self) -> None:
        """Close the file and the viewers; closing twice does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            for viewer in self.viewers:
                viewer.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def _after_rewind(line: dict[str, Any], step: int, unseen: bool) -> dict[str, Any] | None:
    if line["kind"] == "end":
        return None
    if unseen and line.get("step") == step and (line["kind"] in ("evaluation", "sample") or line.get("name") in AGAIN):
        return None
    undone = unseen and line.get("name") in BACK  # from further on to here, and now from here on again
    if line["kind"] not in STEPPED or (line.get("step", 0) <= step and not undone):
        return line
    return line | {"replayed": True} if line["kind"] == "event" else None


def _whole_length(descriptor: int) -> int:
    """Length of the file up to and with its last line end."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        block = os.pread(descriptor, end - start, start)
        found = block.rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a ledger file; a missing file has none, a partial or damaged line is passed over."""
    try:
        file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if (
                isinstance(line, dict)
                and isinstance(line.get("kind"), str)
                and isinstance(line.get("step", None if line["kind"] in STEPPED else 0), int)
            ):
                yield line


def read(folder: str | Path) -> list[dict[str, Any]]:
    """All lines of a run folder's ledger, in order."""
    return list(read_lines(Path(folder) / FILE))


def lived(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without what did not last: steps, evaluations and samples that a later rollback threw away, and a step or an evaluation as
    it was told before it was told again. The ledger itself keeps them all."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, line in enumerate(lines):
        kind, step = line["kind"], line.get("step")
        if kind == "event" and line.get("name") in BACK and isinstance(step, int):
            gone = [key for key, one in kept.items() if key[0] in ("step", "evaluation", "sample") and (one.get("step") or 0) > step]
            for key in gone:
                del kept[key]
        again = kind in ("step", "evaluation") and step is not None
        kept[(kind, step, line.get("stage")) if again else (kind, number)] = line
    return list(kept.values())


def totals(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line that tells what a run has spent in all: its end, else the step or evaluation that is furthest, for not every step is logged;
    empty where none does."""
    told = [line for line in lines if line["kind"] in ("step", "evaluation", "end") and {"step", "tokens", "flops"} <= line.keys()]
    return max(reversed(told), key=lambda line: (line["kind"] == "end", line["step"]), default={})


def plain(value: Any) -> Any:
    """As JSON has it: numbers of tensors and numpy become Python's, what is not finite becomes null, paths become text."""
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    return str(value)
