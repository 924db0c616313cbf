"""From the data section of a recipe to streams of rows: build sources, get the tokenizer, prepare what is missing, open.

Every process plans alike, from the content of the files; one process of a machine does the work, the others wait by looking at the
file system, never inside a collective, so no timeout of a process group can strike.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import whole_folder
from ..core.errors import Problem, UserError
from ..core.parts import Spec, load, signature
from ..core.patience import until
from ..core.seams import Document, Shard, Tokenizer
from .lengths import known_lengths
from .mix import Mixture
from .order import mix64, seed_of
from .prepare import Prepared, ProgressCallback, held_out, prepare, shard_folder
from .source._fingerprint import digest, remembered_in
from .store.locks import lock
from .store.token_store import TokenStore, read_meta
from .stream import Stream
from .text_rows import TextRows

OPEN = 64  # shards that a tokenizer is trained on at once: every one is an open file
LIKE = "name the same files in like, and the same of their rows in fit, for both"
ALPHABET = (
    "Words, names of folders among them, are numbered in the order of the alphabet of each side, so one class would have two numbers; "
    "give both sides the same names, or both a column of whole numbers"
)


@dataclass(frozen=True)
class Data:
    """What a run reads. tokenizer: None where no source is text. report: counts per source and split, for people and the ledger.
    identity: hash of everything that decides the rows; equal identity and seed mean equal rows. plain: the training rows of each
    source, not augmented, for evaluators that learn from them."""

    tokenizer: Any
    train: Stream
    validation: dict[str, Stream]
    plain: dict[str, Stream] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)
    identity: str = ""


@dataclass(frozen=True)
class _Plan:
    """The built sources of one section and their order."""

    sources: dict[str, Any]
    order: Callable[[Mapping[str, int], int], Mixture] | None
    shards: dict[str, list[Shard]]

    @property
    def captioned(self) -> list[Any]:
        """Sources of rows that come with text."""
        return [source for source in self.sources.values() if hasattr(source, "texts") and source.texts() is not None]


def open_data(
    *,
    train: Spec,
    validation: Spec | None = None,
    holdout: float = 0.0,
    tokenizer: Spec | None = None,
    sequence: int,
    pack: Spec,
    cache: Path,
    folder: Path,
    seed: int,
    known: Tokenizer | None = None,
    progress: ProgressCallback | None = None,
    only_prepared: bool = False,
    workers: int | None = None,
    augment: Sequence[Spec] = (),
    views: int = 1,
    bucket: int = 0,
    apart: bool = False,
) -> Data:
    """Open the data, preparing what is missing.

    augment, views: what training rows go through that are not text; see data/rows.py. bucket: training rows of similar length
    that stand together, 0 for none. apart: whether nothing that is trained puts the classes or columns of several sources together.

    holdout: share of documents (rows, for sources of rows) kept for validation. cache: where tokens and trained tokenizers are kept.
    folder: where relative paths start. known: the tokenizer, where it is there already and need not be built. progress: called with (bytes
    done, bytes in all). only_prepared: refuse instead of preparing. Raises UserError for wrong input, RunError when the work cannot be
    done.
    """
    if validation is not None and holdout:
        raise UserError("data: 'validation' and 'holdout' both say what to validate on; give one")
    if not 0 <= holdout < 1:
        raise UserError(f"data.holdout: wants a share from 0 to below 1, got {holdout}")
    cache = Path(folder) / Path(cache).expanduser()
    with remembered_in(cache / "fingerprints.json"):
        plan = _plan(train, Path(folder))
        other = _plan(validation, Path(folder)) if validation is not None else None
    writes = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))) == 0
    plans = [item for item in (plan, other) if item is not None]
    if writes and not only_prepared:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache: {cache} cannot be made: {error.strerror}") from None
    encoder = known
    if known is None and any(item.shards or item.captioned for item in plans):
        encoder = _tokenizer(tokenizer, plan, holdout, cache, Path(folder), writes, only_prepared)
    prepared = _prepare(plans, encoder, holdout, cache, writes, only_prepared, progress, workers)
    opener = _Opener(encoder, pack, sequence, cache, seed, holdout, [spec.build() for spec in augment], views, bucket, apart)
    return opener.open(plan, other, *prepared, *([{}] if other is None else []))


def _plan(spec: Spec, folder: Path) -> _Plan:
    built = spec.build(folder=folder)
    sources = built.sources if hasattr(built, "order") else {spec.name: built}
    shards = {name: source.shards() for name, source in sources.items() if hasattr(source, "shards")}
    return _Plan(sources, getattr(built, "order", None), shards)


def _prepare(
    plans: list[_Plan],
    tokenizer: Any,
    holdout: float,
    cache: Path,
    writes: bool,
    only_prepared: bool,
    progress: ProgressCallback | None,
    workers: int | None,
) -> list[dict[str, Prepared]]:
    """Prepared shards of each plan by source; all plans in one go, so that they share the progress and the cores."""
    shares = [holdout if index == 0 else 0.0 for index in range(len(plans))]
    pairs = [(shard, share) for plan, share in zip(plans, shares) for shards in plan.shards.values() for shard in shards]
    if not pairs:
        return [{} for _ in plans]
    tokens = cache / "tokens"
    if only_prepared:
        missing = sum(read_meta(shard_folder(tokens, shard, tokenizer, share)) is None for shard, share in pairs)
        if missing:
            raise UserError(f"{missing} of {len(pairs)} shards of the data are not prepared under {tokens}: run 'ingot prepare' first")
    done = prepare(
        [shard for shard, _ in pairs],
        tokenizer,
        folder=tokens,
        holdout=[share for _, share in pairs],
        workers=workers,
        progress=progress,
        may_write=writes,
    )
    result: list[dict[str, Prepared]] = []
    at = 0
    for plan in plans:
        result.append({})
        for name, shards in plan.shards.items():
            result[-1][name] = done.part(at, at + len(shards))
            at += len(shards)
    return result


def _tokenizer(spec: Spec | None, plan: _Plan, holdout: float, cache: Path, folder: Path, writes: bool, only_prepared: bool) -> Tokenizer:
    """Build the tokenizer; one that trains on texts is trained once for the same settings and texts, and kept."""
    if spec is None:
        raise UserError("data.tokenizer: the source gives text and needs a tokenizer")
    if "texts" not in signature(load(spec.slot, spec.name)).wiring:
        return spec.build(folder=folder)  # type: ignore[no-any-return]
    from .tokenizer._fast import FastTokenizer

    identities = [[shard.identity for shard in shards] for shards in plan.shards.values()] + [source.identity for source in plan.captioned]
    sides = ["captions trained on"] if holdout and plan.captioned else []
    final = cache / "tokenizers" / digest("tokenizer", 1, spec.data(), identities, holdout, *sides)
    kept = final / "tokenizer.json"
    if only_prepared and not kept.is_file():
        raise UserError(f"the tokenizer is not trained yet under {cache / 'tokenizers'}: run 'ingot prepare' first")

    def trained() -> bool:
        with ExitStack() as stack:
            if writes and not kept.is_file() and stack.enter_context(lock(final)) and not kept.is_file():
                _train(spec, plan, holdout, final, folder)
        return kept.is_file()

    until(trained)
    return FastTokenizer.load(final)


def _train(spec: Spec, plan: _Plan, holdout: float, final: Path, folder: Path) -> None:
    shards = list(chain.from_iterable(plan.shards.values()))

    def captions(source: Any) -> Iterator[str]:
        return compress(source.texts(), ~held_rows(len(source), holdout))

    trained = spec.build(texts=lambda: chain(_texts(shards, holdout), *map(captions, plan.captioned)), folder=folder)
    with whole_folder(final, mark="tokenizer.json") as aside:
        trained.save(aside)
        if final.exists() and not (final / "tokenizer.json").is_file():
            shutil.rmtree(final)


def _texts(shards: list[Shard], holdout: float) -> Iterator[str]:
    """Training documents of all shards, of at most OPEN at once that lie evenly among them, so that any beginning is a sample of all."""
    groups = -(-len(shards) // OPEN)
    for first in range(groups):
        yield from _in_turn(shards[first::groups], holdout)


def _in_turn(shards: list[Shard], holdout: float) -> Iterator[str]:
    """Training documents, one from each shard in turn."""
    readers: list[Iterator[Document]] = [shard.read() for shard in shards]
    while readers:
        going = []
        for reader in readers:
            document = next((item for item in reader if not held_out(item.id, holdout)), None)
            if document is not None:
                going.append(reader)
                yield document.text
        readers = going


def _alike(train: _Plan, validation: _Plan | None, apart: bool) -> None:
    """Raises UserError where two sources of rows of one kind number classes or categories, or scale numbers, each in its own way: two that
    are trained on, unless they stay apart, and one that is validated on beside that of its name, or beside all where none has it."""
    trained = {name: source for name, source in train.sources.items() if hasattr(source, "fields")}
    for place, (name, source) in enumerate(() if apart else trained.items()):
        for other in list(trained)[:place]:
            if reason := _difference(source, trained[other], name, f"those of {other!r}"):
                raise UserError(f"data.train: {reason}")
    for name, source in ({} if validation is None else validation.sources).items():
        for one in ([trained[name]] if name in trained else trained.values()) if hasattr(source, "fields") else ():
            if reason := _difference(source, one, name, "those trained on"):
                raise UserError(f"data.validation: {reason}")


def _difference(source: Any, other: Any, name: str, those: str) -> str:
    """What two sources of rows read differently, and what to do about it; nothing where they give rows of other kinds. name: of the first;
    those: what the other's classes or columns are called."""
    fields, others = source.fields(), other.fields()
    kind, theirs = ({key for key, field in found.items() if field.shape} for found in (fields, others))  # none of either: both are text
    if (kind or theirs) and not kind & theirs:
        return ""
    tables = hasattr(source, "learned") and hasattr(other, "learned")
    if tables and source.learned != other.learned:
        return f"the columns of {name!r} are not scaled and numbered as {those} are; {LIKE}"
    if column := _scaled_apart(source, other):
        return f"{name!r} scales column {column!r} otherwise than {those}; set the same standardize for both"
    ours, known = _words(source), _words(other)
    said = all(getattr(one, "classes_said", False) for one in (source, other)) and not (ours and known)  # the recipe's order, or numbers
    if ours == known or said or "label" not in fields.keys() & others.keys():
        return ""
    apart = [repr(word) for word in (*known, *ours) if (word in ours) != (word in known)]
    told = f"{', '.join(apart[:5])} on one side alone" if apart else "their order is another"
    return f"the classes of {name!r} are not {those} ({told}){f'; {LIKE}' if tables else f'. {ALPHABET}'}"


def _scaled_apart(source: Any, other: Any) -> str | None:
    """A column of the same files that two sources of series scale each in its own way."""
    (files, scaled), (others, known) = (getattr(one, "scaled", ([], {})) for one in (source, other))
    return next((column for column in scaled if scaled[column] != known.get(column, scaled[column])), None) if files == others else None


def _words(source: Any) -> list[str]:
    """The names of its classes, where they are words; none where classes are whole numbers from 0, whose number is their own."""
    names = list(getattr(source, "names", []))
    return [] if names == [str(number) for number in range(len(names))] else names


def _names(shards: list[Shard]) -> str:
    return f"{shards[0].name} {f'and {len(shards) - 1} more ' if len(shards) > 1 else ''}" if shards else ""


@dataclass
class _Opener:
    tokenizer: Any
    pack: Spec
    sequence: int
    cache: Path
    seed: int
    holdout: float
    augments: list[Any]
    views: int
    bucket: int
    apart: bool

    def open(self, plan: _Plan, other: _Plan | None, train: dict[str, Prepared], validation: dict[str, Prepared]) -> Data:
        plain = {name: self._rows(source, train.get(name), "train") for name, source in plan.sources.items()}
        rows = {name: self._rows(source, train.get(name), "train", augmented=True) for name, source in plan.sources.items()}
        empty = [name for name, item in rows.items() if not len(item)]
        if empty:
            after = f" after holding out {self.holdout:g}" if self.holdout else ""
            raise UserError(
                [
                    Problem(f"data source {name}", f"{_names(plan.shards.get(name, []))}has nothing to train on{after or ': it is empty'}")
                    for name in empty
                ]
            )
        mixture = plan.order({name: len(item) for name, item in rows.items()}, self.sequence) if plan.order else None
        stream = Stream(rows, self.seed, mixture, self._lengths(rows), self.bucket)
        held, counts = self._validation(plan, other, train, validation)
        _alike(plan, other, self.apart)
        report = [self._describe(name, item, train.get(name), "train") for name, item in rows.items()] + counts
        texts = [[name, [folder.name for folder in prepared.folders]] for name, prepared in train.items()]
        fractions = [pattern.fraction.tolist() for pattern in stream.mixture.patterns]
        identity = digest(
            "data",
            texts,
            self.pack.data(),
            self.sequence,
            {name: [len(item), getattr(item, "identity", ""), *getattr(item, "reading", [])] for name, item in rows.items()},
            stream.mixture.starts,
            [pattern.fixed.tolist() for pattern in stream.mixture.patterns],
            *([fractions] if any(map(any, fractions)) else []),
            *self._looks(),
            *([["bucket", self.bucket]] if self.bucket else []),
        )
        return Data(self.tokenizer, stream, held, {name: Stream({name: item}, self.seed) for name, item in plain.items()}, report, identity)

    def _validation(
        self, plan: _Plan, other: _Plan | None, train: dict[str, Prepared], validation: dict[str, Prepared]
    ) -> tuple[dict[str, Stream], list[dict[str, Any]]]:
        if other is None and not self.holdout:
            return {}, []
        split, chosen, prepared = ("validation", plan, train) if other is None else ("train", other, validation)
        rows = {name: self._rows(source, prepared.get(name), split) for name, source in chosen.sources.items()}
        counts = [self._describe(name, item, prepared.get(name), split) | {"split": "validation"} for name, item in rows.items()]
        kept = {name: Stream({name: item}, self.seed) for name, item in rows.items() if len(item)}
        if not kept:
            raise UserError(
                f"data.holdout: {self.holdout:g} left no document to validate on; there are too few documents (text_files: document: line or blank_line makes more)"
            )
        return kept, counts

    def _lengths(self, rows: dict[str, Any]) -> dict[str, np.ndarray]:
        """Of the rows of sources that can tell, where rows of similar length are to stand together."""
        found = {}
        for name, item in rows.items() if self.bucket else ():
            whole = item.source if isinstance(item, HeldOutRows) else item
            if hasattr(whole, "trimmed"):
                lengths = known_lengths(whole, self.cache)
                found[name] = lengths[item.ids] if whole is not item else lengths
        if self.bucket and not found:
            raise UserError("data.bucket: no source of this run knows how long its rows are")
        return found

    def _looks(self) -> list[Any]:
        """What augmentation adds to the identity of the rows."""
        return [[[type(item).__name__, vars(item)] for item in self.augments], self.views] if self.augments else []

    def _rows(self, source: Any, prepared: Prepared | None, split: str, augmented: bool = False) -> Any:
        if prepared is None:
            if self.tokenizer is not None and hasattr(source, "with_tokenizer"):
                source = source.with_tokenizer(self.tokenizer, self.sequence)
            if augmented and (self.augments or self.views > 1):
                if not hasattr(source, "augmented"):
                    raise UserError(f"data.augment: {type(source).__name__} gives rows that cannot be augmented")
                source = source.augmented(self.augments, self.views, self.seed)
            if not self.holdout:
                return source
            side = HeldOutRows(source, self.holdout, split)
            if augmented and (self.augments or self.views > 1):
                source.partners = side.ids  # what is held out is mixed into no row; this copy of the source is the augmented one's alone
            return side
        if augmented and self.augments:
            raise UserError("data.augment: texts are not augmented; the objective corrupts them")
        store = TokenStore.open(prepared.folders, split, tokenizer=self.tokenizer)
        pack = self.pack.build(lengths=store.lengths, sequence=self.sequence, cache=self.cache / "packs")
        specials = self.tokenizer.specials
        begin, end = getattr(self.tokenizer, "begin", None), self.tokenizer.end
        return TextRows(store, pack, sequence=self.sequence, begin=begin, end=end, pad=specials.get("pad", end))

    def _describe(self, name: str, rows: Any, prepared: Prepared | None, split: str) -> dict[str, Any]:
        counts: dict[str, Any] = {"source": name, "split": split, "rows": len(rows)}
        if prepared is not None:
            counts |= prepared.counts(split) | {"rejected": prepared.rejected}
        return counts


def held_rows(count: int, holdout: float) -> np.ndarray:
    """(count,) whether a row belongs to validation, by a hash of its number."""
    keys = mix64(np.arange(count, dtype=np.uint64) ^ np.uint64(seed_of("held out rows")))
    return np.asarray(keys < np.uint64(min(holdout * 2.0**64, 2.0**64 - 2048)))


class HeldOutRows:
    """One side of a split of a source of rows; all else is the source's own. ids: the numbers of its rows in the source."""

    def __init__(self, source: Any, holdout: float, split: str):
        self.source = source
        held = held_rows(len(source), holdout)
        self.ids = np.flatnonzero(held if split == "validation" else ~held)
        if hasattr(source, "trained_on"):
            source.trained_on(np.flatnonzero(~held))

    def __len__(self) -> int:
        return len(self.ids)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def where(self, index: int) -> str:
        """File and row, for people, by the row's number on this side."""
        row = int(self.ids[index])
        return str(self.source.where(row)) if hasattr(self.source, "where") else f"row {row}"

    def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The source's rows, by their number on this side."""
        result: dict[str, np.ndarray] = self.source.rows(self.ids[ids], numbers)
        return result
