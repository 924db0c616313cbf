"""Evaluators at work: which run, what each is given, and under which names their numbers are kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import UserError
from ..core.parts import Spec
from ..core.resolve import spec

if TYPE_CHECKING:
    from .run import Run

Windows = Iterator[list[dict[str, torch.Tensor]]]


def evaluate_streams(
    run: Run, streams: dict[str, Any], *, plain: dict[str, Any], rows: int | None = None, also: list[Spec] | None = None
) -> dict[str, dict[str, float]]:
    """Per source: the objective's loss, and ``<evaluator>.<metric>`` of those the recipe (or ``also``) names.

    plain: training rows without augmentation, by source. An evaluator runs on the sources that give what it reads; UserError where
    none does, unless other stages have other data. What an evaluator finds alarming becomes an event, unless nothing has been learned
    yet that could be lost.
    """
    settings = run.section.evaluate
    chosen = [item for item in (settings.also if also is None else also) if item.name != "loss"]  # which is measured in any case
    results = {name: _loss(run, stream, rows) for name, stream in streams.items()}
    untrained = run.program.step == 0 and run.start_from is None
    for item in chosen:
        evaluator, ran = item.build(layout=run.layout), False
        reads = set(getattr(evaluator, "reads", ()))
        able = {name: one for name, one in plain.items() if one.fields().keys() >= reads}
        for name, stream in streams.items():
            if not stream.fields().keys() >= reads:
                continue
            ran = True
            found = _call(run, evaluator, stream, able.get(name) or next(iter(able.values()), None), rows)
            results[name] |= {f"{item.name}.{metric}": float(value) for metric, value in found.items()}
            for message in evaluator.alarms(found) if hasattr(evaluator, "alarms") and not untrained else ():
                run.note("alarm", f"{item.name} on {name}: {message}")
        if streams and not ran:
            lacking = f"evaluate: {item.name} reads {', '.join(evaluator.reads)}, which no validation data of this"
            if also is not None or len({run.data_index(index) for index in range(len(run.section.stages))}) == 1:
                raise UserError(f"{lacking} run gives")
            run.program.hear(f"{lacking} stage gives; it is left out")
    return results


def _loss(run: Run, stream: Any, rows: int | None) -> dict[str, float]:
    evaluator = spec("evaluate", "loss").build(layout=run.layout)
    return dict(_call(run, evaluator, stream, None, rows))


def _call(run: Run, evaluator: Any, stream: Any, plain: Any, rows: int | None) -> dict[str, float]:
    """Give an evaluator what its parameters name."""
    table = getattr(run.tokenizer, "token_bytes", None)
    most = rows or run.section.evaluate.rows
    offered: dict[str, Callable[[], Any]] = {
        "windows": lambda: windows(run, stream, most),
        "objective": lambda: run.model.objective,
        "training": lambda: _training(run, plain),
        "looks": lambda: _looks(run, stream),
        "token_bytes": lambda: torch.from_numpy(table()).double() if table else None,
        "fields": stream.fields,
        "tokenizer": lambda: run.tokenizer,
        "seed": lambda: run.section.seed,
        "batch_rows": lambda: run.section.evaluate.batch_rows,
    }
    wanted = [name for name, item in inspect.signature(evaluator).parameters.items() if item.kind is item.KEYWORD_ONLY]
    strange = [name for name in wanted if name not in offered]
    if strange:
        raise UserError(f"evaluate: {type(evaluator).__name__} asks for {', '.join(strange)}; offered are {', '.join(offered)}")
    found: dict[str, float] = evaluator(run.model, **{name: offered[name]() for name in wanted})
    return found


def _training(run: Run, plain: Any) -> Callable[[int | None], Windows]:
    if plain is None:
        raise UserError("evaluate: there are no training rows to learn from: none, or none that hold what the evaluator reads")
    return lambda rows=None: windows(run, plain, min(rows or 10**12, run.section.evaluate.training_rows))


def _home(run: Run, stream: Any) -> Any:
    """The opened data that a stream is of: stages may read different ones."""
    every = list(run._data.values())
    return next(
        (data for data in every if any(stream is one for one in (data.train, *data.validation.values(), *data.plain.values()))), every[0]
    )


def _looks(run: Run, stream: Any) -> Callable[[int], Windows] | None:
    """Training rows with the views that training sees, where there are several."""
    data = _home(run, stream)
    return (lambda rows: windows(run, data.train, rows)) if any(key.endswith("_1") for key in data.train.fields()) else None


def windows(run: Run, stream: Any, rows: int) -> Windows:
    """This rank's windows of a stream's first rows, at most one epoch of them, as many on every rank.

    An objective that compares rows is given the same pieces of rows however many ranks there are: whole ones of evaluate.batch_rows.
    """
    count, ranks = min(rows, stream.rows_per_epoch), run.layout.ranks
    pieces = getattr(run.model.objective, "couples_batch", False)
    micro = min(count if pieces else -(-count // ranks), run.section.evaluate.batch_rows)
    per_window = micro * ranks
    known = _home(run, stream).train.source_names  # a held-out stream has one source: its rows say which of the training ones it is
    place = known.index(stream.source_names[0]) if len(stream.source_names) == 1 and stream.source_names[0] in known else 0
    for start in range(0, count, per_window):
        here, part = (start, min(per_window, count - start)), (run.layout.rank, ranks)
        if pieces:
            here, part = _piece(start, count, micro, *part)
        found = run.windows(stream, start=here[0], rows=here[1], micro_rows=micro, part=part)
        try:
            window = next(iter(found))
            yield [micro | {"source": micro["source"] + place} for micro in window] if place else window
        finally:
            found.close()


def _piece(start: int, count: int, size: int, rank: int, ranks: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(First row, rows), (rank, ranks) such that of these rows the rank holds its whole piece of the window, or, behind the last row,
    nothing but padding."""
    first = start + rank * size
    return ((first, min(size, count - first)), (0, 1)) if first < count else ((start, 1), (1, 2))
