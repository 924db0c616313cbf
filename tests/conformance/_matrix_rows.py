"""The rows of the composition matrix: a stream for a Run, and a source that the static check knows."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ingot.core.parts import Entry, parts_in
from ingot.core.seams import Field

_found = importlib.util.spec_from_file_location("matrix_batches", Path(__file__).with_name("_batches.py"))
assert _found is not None and _found.loader is not None
batches = importlib.util.module_from_spec(_found)
_found.loader.exec_module(batches)


class Clips:
    """The suite's sounds as annotators see a source; its column takes the place of the codes that the suite makes up."""

    rate, size, identity = 100 * batches.SAMPLES // batches.FRAMES, batches.SAMPLES, "matrix"

    def __init__(self) -> None:
        self.columns: dict[str, Any] = {}

    def __len__(self) -> int:
        return Rows.rows_per_epoch

    def sound(self, index: int) -> Any:
        numbers = torch.tensor([index])
        return batches.sounds(numbers)[0, : int(batches.real(numbers, self.size))].numpy()

    def annotate(self, key: str, values: Any, starts: Any, hop: int, kinds: int) -> None:
        self.columns[key] = (values, starts)

    def column(self, key: str, numbers: torch.Tensor) -> torch.Tensor:
        """(B, F), -100 behind a clip's end and in padding."""
        values, starts = self.columns[key]
        found = torch.full((len(numbers), batches.FRAMES), -100)
        for at, number in enumerate(numbers.tolist()):
            if number >= 0:
                own = torch.from_numpy(values[starts[number % len(self)] : starts[number % len(self) + 1]].astype("int64"))[
                    : batches.FRAMES
                ]
                found[at, : len(own)] = own
        return found


class Rows:
    """A stream of the suite's learnable rows. single: a row is one document."""

    end, seconds_per_row, rows_per_epoch = None, 0.0, 64

    def __init__(self, keys: list[str], single: bool, names: list[str]):
        self.keys, self.single, self.source_names = keys, single, names
        self.sources = {"matrix": Clips()} if "waveform" in keys else {}
        self._fields: Any = None

    def fields(self) -> dict[str, Field]:
        found: dict[str, Field] = batches.fields(self.keys)
        return found

    def batch(self, start: int, count: int) -> dict[str, Any]:
        found = batches.batch(range(start, start + count), self.keys)
        found["source"] = found["rows"] % len(self.source_names)
        found |= {key: source.column(key, found["rows"]) for source in self.sources.values() for key in source.columns}
        if self.single and "segments" in found:
            found["segments"] = torch.ones_like(found["segments"])
            found["positions"] = torch.arange(found["segments"].shape[1]).expand(count, -1)
        return {key: value.numpy() for key, value in found.items() if key != "key"}

    def epochs(self, row: int) -> float:
        return row / self.rows_per_epoch

    def notices(self) -> list[Any]:
        return []


class Source:
    """What the static check sees of rows that are not text: a source that says what it gives."""

    seconds_per_row = 0.0

    def __init__(self, folder: Any = None, *, keys: list[str]):
        self.keys = keys

    @staticmethod
    def known_fields(knobs: dict[str, Any], sequence: int) -> dict[str, Field]:
        found: dict[str, Field] = batches.fields(knobs["keys"])
        return found

    @staticmethod
    def with_text(knobs: dict[str, Any]) -> bool:
        return "tokens" in knobs["keys"]


@contextmanager
def source_known() -> Iterator[None]:
    """Source as the part ``matrix`` of data.source, as another package would add it."""
    parts_in("data.source")["matrix"] = Entry(
        "data.source", "matrix", entry_point=SimpleNamespace(load=lambda: Source, dist=None, value="matrix")
    )  # type: ignore[arg-type]
    try:
        yield
    finally:
        parts_in("data.source").pop("matrix", None)
