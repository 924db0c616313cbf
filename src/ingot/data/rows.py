"""What sources of rows share (images, sound, series, tables): decoding in threads, rows that cannot be read, augmentation, views.

A source derives from Rows and says how many rows there are, what one holds (``fields``), how one is read (``row``), where it lies
(``where``) and how a read value becomes an array of fixed shape (``finish``). Everything here is a function of (id, row number), so
any row is found at once and a resumed run sees what it would have seen.

A row that cannot be read raises BadRow. Within the allowance ``skip`` (a share of the rows) it becomes padding: its number is -1, it
is never scored, and a notice naming file and row goes to the ledger; beyond it the source refuses. The allowance counts the distinct
rows that a process has met since it started: not those that other ranks have met, nor those from before a run was stopped and resumed.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.framing import framed, laid
from ..core.limits import cores
from ..core.seams import Field
from .order import seed_of

Row = dict[str, Any]
QUICK = 1e-3  # seconds in which a row is read that no other thread should be asked for
_FRESH = {"bit_generator": "Philox", "buffer": np.zeros(4, np.uint64), "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}  # nothing drawn yet
_local = threading.local()
TOGETHER = 2**20  # bytes of rows that are decoded before any of them is augmented


class BadRow(Exception):
    """This row cannot be used; the message says why, without its place."""


class Skips:
    """Rows that this process has passed over since it started. allowance: the largest share of all rows; 0 refuses the first."""

    def __init__(self, allowance: float, rows: int):
        self.allowance, self.rows = allowance, rows
        self.found: dict[int, str] = {}
        self._fresh: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def note(self, row: int, where: str, reason: str) -> None:
        """Count a row once. Raises UserError where the allowance does not cover it, as often as it is met: who met it first may not have
        been heard, such as a loader that read ahead and was set elsewhere."""
        with self._lock:
            if row in self.found:
                return
            message, count = f"{where}: {reason}", len(self.found) + 1
            if count > self.allowance * self.rows:
                raise UserError(
                    message
                    if not self.allowance
                    else f"{message}; this process has met {count} of {self.rows} rows that cannot be used since it started, "
                    f"more than skip allows ({self.allowance:g})"
                )
            self.found[row] = message
            self._fresh.append({"name": "skip", "message": f"row passed over: {message}", "skipped": len(self.found)})

    def drain(self) -> list[dict[str, Any]]:
        """Events since the last call."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        return fresh


class Rows:
    """See the module's docstring. threads: rows are read by several threads (decoders release the interpreter's lock)."""

    threads = True

    def __init__(self, *, skip: float = 0.0):
        self.skip = skip
        self.augments: tuple[Any, ...] = ()
        self.looks: list[list[Any]] = [[]]  # what each view of a row goes through
        self.mixing: list[Any] = []  # augments that mix rows with others
        self.views, self.seed = 1, 0
        self._skips: Skips | None = None
        self._tokens: tuple[list[np.ndarray], int] | None = None
        self.held: dict[str, np.ndarray] = {}
        self.partners: np.ndarray | None = None  # rows that others may be mixed with; None for all
        self.kept: list[str] = []
        self.reading: list[Any] = []  # what decides rows beside ``identity``: to which sizes values are brought, by which tokenizer

    # -- what a source says ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        raise NotImplementedError

    def stored(self) -> dict[str, Field]:
        """Fields of a finished row, before augmentation and tokens."""
        raise NotImplementedError

    def row(self, index: int) -> Row:
        """One row as it is stored. Raises BadRow."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """File and row, for people."""
        raise NotImplementedError

    def finish(self, row: Row) -> Row:
        """Values in the shapes and dtypes of ``stored``. Raises BadRow."""
        return row

    def captions(self) -> Sequence[str] | None:
        """The text of every row, where rows come with one."""
        return None

    # -- what the opener asks for ---------------------------------------------------------------------------------------------

    def fields(self) -> dict[str, Field]:
        """Of everything that ``rows`` gives."""
        return self.beside_held(self.read_fields()) if self.held else self.read_fields()

    def read_fields(self) -> dict[str, Field]:
        """Of everything that is read where nothing is held."""
        length = self._tokens[1] if self._tokens else None
        return augmented_fields(self.stored() | (text_fields(length) if length else {}), self.augments, self.views)

    def notices(self) -> list[dict[str, Any]]:
        """Rows passed over since the last call, as events of the ledger."""
        return self.skips.drain()

    @property
    def skips(self) -> Skips:
        if self._skips is None:
            self._skips = Skips(self.skip, len(self))
        return self._skips

    def augmented(self, augments: Sequence[Any], views: int, seed: int) -> Rows:
        """The same rows, changed by augments in this order, each drawn from (seed, row number, view)."""
        other = copy.copy(self)
        other._skips = self.skips
        other.augments, other.views, other.seed = tuple(augments), views, seed
        fields = self.stored()
        for augment in augments:
            if augment.reads is not None and augment.reads not in fields:
                raise UserError(
                    f"data.augment: {type(augment).__name__} changes {augment.reads!r}, which this source does not give; it gives {', '.join(fields)}"
                )
            if hasattr(augment, "bind"):
                augment.bind(fields)
        other.mixing = [augment for augment in augments if getattr(augment, "mixes", False)]
        changing = [augment for augment in augments if augment not in other.mixing]
        other.looks = [[augment.of_view(view) if hasattr(augment, "of_view") else augment for augment in changing] for view in range(views)]
        return other

    def hold(self, columns: Mapping[str, np.ndarray], keep: Sequence[str] = ()) -> None:
        """Take values that an annotator found for every row, ``usable`` among them, in the place of what would be read; for all copies.
        keep: what is read all the same. Raises UserError for a key that rows do not have."""
        read = self.read_fields()
        if missing := [key for key in keep if key not in read]:
            raise UserError(f"annotate.keep: rows have no {missing[0]!r}; they have {', '.join(read)}")
        self.held.clear()
        self.held.update(columns)
        self.kept[:] = keep

    def beside_held(self, read: Mapping[str, Field]) -> dict[str, Field]:
        """Fields of the values that are held, and of those that are kept."""
        stored = self.stored()
        held = {
            key: Field(value.shape[1:], str(value.dtype), stored[key].values if key in stored else None)
            for key, value in self.held.items()
            if key != "usable"
        }
        return held | {key: field for key, field in read.items() if key in self.kept or (self.kept and not field.shape)}

    def texts(self) -> Iterator[str] | None:
        """What a tokenizer may be trained on, where rows come with text."""
        found = self.captions()
        return None if found is None else iter(found)

    def with_tokenizer(self, tokenizer: Any, sequence: int) -> Rows:
        """The same rows with their text as tokens, opened, closed and cut to ``sequence``. Raises UserError for a row without text."""
        found = self.captions()
        if found is None:
            return self
        empty = next((index for index, text in enumerate(found) if not text.strip()), None)
        if empty is not None and not self.skip:
            raise UserError(f"{self.where(empty)}: the text is empty")
        other = copy.copy(self)
        other._skips = self.skips
        # Spaces alone are no text either, though a tokenizer may have ids for them.
        encoded = [
            framed(ids, tokenizer, sequence) if text.strip() and len(ids) else ids[:0]
            for text, ids in zip(found, tokenizer.encode(list(found)), strict=True)
        ]
        other._tokens = (encoded, sequence)
        other.reading = [*self.reading, tokenizer.identity]
        return other

    def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Rows by number, stacked, with ``rows`` (-1 where a row is passed over)."""
        if not self.held:
            return self._read_rows(ids, numbers)
        held = self._held_rows(ids, numbers)
        if not self.kept:
            return held
        read = self._read_rows(ids, numbers)
        numbers = np.where(read["rows"] < 0, -1, held["rows"])
        return held | {key: value for key, value in read.items() if key in self.kept or value.ndim == 1} | {"rows": numbers}

    # -- inside ---------------------------------------------------------------------------------------------------------------

    def _read_rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        pairs = list(zip(ids.tolist(), numbers.tolist(), strict=True))
        read = _in_threads(self._whole, pairs) if self.threads else self._whole(pairs)
        result = {key: np.zeros((len(ids), *field.shape), dtype=field.dtype) for key, field in self.read_fields().items()}
        result["rows"] = np.array(numbers, dtype=np.int64)
        for at, row in enumerate(read):
            if row is None:
                result["rows"][at] = -1
                continue
            for key, value in row.items():
                result[key][at] = value
        return result

    def _whole(self, pairs: Sequence[tuple[int, int]]) -> list[Row | None]:
        """Finished rows (index, number) with all their views and their text; None where one is passed over. Some are read, then the same
        changed: decoder and augmentation each stay in the processor's caches."""
        found: list[Row | None] = []
        read: list[tuple[Row | None, int, int]] = []
        held = 0
        for at, (index, number) in enumerate(pairs, 1):
            row = self._or_noted(index, partial(self.row, index))
            read.append((row, index, number))
            held += sum(value.nbytes for value in row.values() if isinstance(value, np.ndarray)) if row is not None else 0
            if held > TOGETHER or at == len(pairs):
                found += [None if one is None else self._or_noted(where[0], partial(self._looked_at, one, *where)) for one, *where in read]
                read, held = [], 0
        return found

    def _or_noted(self, index: int, make: Callable[[], Row]) -> Row | None:
        try:
            return make()
        except BadRow as error:
            self.skips.note(index, self.where(index), str(error))
            return None

    def _looked_at(self, row: Row, index: int, number: int) -> Row:
        """A row as it is stored in all its views, and its text. Raises BadRow."""
        result = self._view(row, number, 0)
        for view in range(1, self.views):
            again = self._view(row, number, view)
            result |= {f"{key}_{view}": again[key] for key in viewed(self.augments)}
        return result | self._text(index)

    def _held_rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        usable = self.held["usable"][ids]
        found = {key: np.array(value[ids]) for key, value in self.held.items() if key != "usable"}
        for augment in self.mixing:
            for at, number in enumerate(numbers.tolist()):
                draw = self._draws(number)
                partner = self._partner(draw)
                if self.held["usable"][partner]:
                    other = {key: self.held[key][partner] for key in found}
                    for key, value in augment.mix({key: value[at] for key, value in found.items()}, other, draw).items():
                        found[key][at] = value
        return found | {"rows": np.where(usable, numbers, -1)}

    def _view(self, row: Row, number: int, view: int) -> Row:
        draw = self._draws(number, view)
        changed = self._changed(row, draw, view)
        for augment in self.mixing:
            partner = self._partner(draw)
            try:
                other = self._changed(self.row(partner), draw, view)
            except BadRow as error:
                self.skips.note(partner, self.where(partner), str(error))
                other = changed
            changed = augment.mix(changed, other, draw)
        return changed

    def _draws(self, number: int, view: int = 0) -> np.random.Generator:
        """What a look of a row is drawn from: Philox of (seed, row number; view). One generator of each thread is set anew, which takes a
        seventh of making another, so this holds until the thread asks again."""
        if not hasattr(_local, "draw"):
            _local.draw = np.random.Generator(np.random.Philox(key=0))
        key = np.array([seed_of(self.seed, "augment"), number % 2**64], dtype=np.uint64)
        counter = np.array([0, 0, 0, view], dtype=np.uint64)
        _local.draw.bit_generator.state = _FRESH | {"state": {"key": key, "counter": counter}}
        return _local.draw  # type: ignore[no-any-return]

    def _partner(self, draw: np.random.Generator) -> int:
        """A row to mix with, of the side of the split that is trained on."""
        return int(draw.integers(len(self))) if self.partners is None else int(self.partners[draw.integers(len(self.partners))])

    def _changed(self, row: Row, draw: np.random.Generator, view: int) -> Row:
        """A row through the augments that change one value, finished."""
        row = dict(row)
        for augment in self.looks[view]:
            row[augment.reads] = augment(row[augment.reads], draw)
        return self.finish(row)

    def _text(self, index: int) -> Row:
        if self._tokens is None:
            return {}
        encoded, length = self._tokens
        ids = encoded[index]
        if not len(ids):
            raise BadRow("the text is empty")
        return laid(ids, length)


def viewed(augments: Sequence[Any]) -> list[str]:
    """Keys that differ between views."""
    return sorted({augment.reads for augment in augments if augment.reads is not None})


def augmented_fields(fields: Mapping[str, Field], augments: Sequence[Any], views: int) -> dict[str, Field]:
    """Fields of augmented rows."""
    result = dict(fields)
    for augment in augments:
        result |= getattr(augment, "adds", {})
    for view in range(1, views):
        for key in (key for key in viewed(augments) if key in fields):
            field = fields[key]
            for augment in (item for item in augments if item.reads == key and hasattr(item, "field_of_view")):
                field = augment.field_of_view(field, view)
            result[f"{key}_{view}"] = field
    return result


def mixed_fields(fields: Mapping[str, Field], more: Mapping[str, Field]) -> dict[str, Field]:
    """Fields of the rows of several sources and of one more: of ids, as many as the source with the most has."""
    found = dict(fields)
    for key, field in more.items():
        known = found.get(key, field)
        found[key] = replace(known, values=max(filter(None, (known.values, field.values)), default=None))
    return found


def text_fields(sequence: int, vocabulary: int | None = None) -> dict[str, Field]:
    """Of rows of tokens."""
    return {
        "tokens": Field((sequence,), "int64", vocabulary),
        "segments": Field((sequence,), "int32"),
        "positions": Field((sequence,), "int64"),
    }


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=min(16, cores()), thread_name_prefix="ingot-decode")


def _in_threads(function: Callable[[list[Any]], list[Any]], items: list[Any]) -> list[Any]:
    """The function of all items. Those that take long are shared out among threads in runs of neighbors; quick ones hold the interpreter's
    lock for most of their time, so that threads would only disturb each other and the step that is computed meanwhile."""
    workers = min(16, cores())
    if workers == 1 or len(items) < 4:
        return function(items)
    began = time.perf_counter()
    first = function(items[:2])
    if time.perf_counter() - began < 2 * QUICK:
        return first + function(items[2:])
    size = -(-(len(items) - 2) // workers)
    pieces = [items[start : start + size] for start in range(2, len(items), size)]
    return first + [result for piece in _pool().map(function, pieces) for result in piece]
