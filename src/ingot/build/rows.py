"""What the rows of a run hold, known before or without reading them: fields, positions, example batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import UserError
from ..core.parts import Spec
from ..core.seams import Field
from ..data.rows import augmented_fields, mixed_fields, text_fields

if TYPE_CHECKING:
    from .run import Run
    from .schema import Data, RunSection


def leaves(source: Spec) -> Iterator[Spec]:
    """The sources that give rows: the one itself, or those of a mixture."""
    for _, spec in source.walk():
        if spec.slot == "data.source" and not hasattr(spec.target, "order"):
            yield spec


def gives_text(source: Spec) -> bool:
    """Whether a source needs a tokenizer: it gives documents, or rows that come with text."""
    return any(
        hasattr(spec.target, "shards") or getattr(spec.target, "with_text", lambda knobs: False)(spec.knobs) for spec in leaves(source)
    )


def gives_only_rows(source: Spec) -> bool:
    """Whether no source gives documents, so that a row is not a number of tokens."""
    return not any(hasattr(spec.target, "shards") for spec in leaves(source))


def fields_of(data: Data, folder: Path) -> dict[str, Field]:
    """What a row of the data section holds; sources are only looked into where the recipe does not say it."""
    found: dict[str, Field] = {}
    for spec in leaves(data.train):
        known = getattr(spec.target, "known_fields", None)
        if hasattr(spec.target, "shards"):
            fields = text_fields(data.sequence)
        else:
            fields = (known(spec.knobs, data.sequence) if known else None) or spec.build(folder=folder).fields()
            fields |= getattr(spec.target, "text_fields", text_fields)(data.sequence) if gives_text(spec) else {}
        found = mixed_fields(found, fields)
    return augmented_fields(found, [augment.build() for augment in data.augment], data.views)


def sources_apart(run: RunSection, stages: Iterable[int]) -> bool:
    """Whether nothing that these stages train puts several sources' classes or columns together: by_source, and where neither is read."""
    return all(_apart(run.objective_at(index)[1], run.model.embedding) for index in stages)


def _apart(objective: Spec, embedding: Spec) -> bool:
    read = {key for _, one in (*objective.walk(), *embedding.walk()) for key in getattr(one.target, "reads", None) or ()}
    return objective.name == "by_source" or not read & {"label", "values", "numbers", "categories"}


def known_keys(data: Data, annotated: Spec | None = None) -> set[str] | None:
    """Keys of a row of the data section as far as the recipe alone says them; None where a source would have to be looked into."""
    keys: set[str] = set()
    for spec in leaves(data.train):
        known = getattr(spec.target, "known_fields", None)
        fields = text_fields(data.sequence) if hasattr(spec.target, "shards") else known(spec.knobs, data.sequence) if known else None
        if fields is None:
            return None
        keys |= set(fields)
    if annotated is not None:
        whole = getattr(annotated.target, "whole_rows", False)
        keys |= set(annotated.target.known_fields(annotated.knobs)) if whole else {annotated.target.key}  # type: ignore[attr-defined]
    return keys.union(*(getattr(augment.target, "adds", {}) for augment in data.augment))


def reading(embedding: Spec) -> tuple[str, ...]:
    """Keys that an embedding reads; nothing where it does not say so before it is built."""
    if stems := embedding.knobs.get("stems"):
        return tuple(key for stem in stems.values() for key in reading(stem))
    said = getattr(embedding.target, "reading", None)
    return tuple(said(embedding.knobs) if said else getattr(embedding.target, "reads", ()))


def example_batch(fields: dict[str, Field], rows: int) -> dict[str, torch.Tensor]:
    """A batch by shape, as the data gives it: zeros, one segment, positions in order."""
    numbers = torch.arange(rows)
    batch = {"rows": numbers, "source": torch.zeros_like(numbers), "key": torch.tensor(0)}
    for key, field in fields.items():
        batch[key] = torch.zeros(rows, *field.shape, dtype=getattr(torch, field.dtype))
    if "tokens" in fields:
        batch |= {"segments": torch.ones_like(batch["segments"]), "positions": torch.arange(fields["tokens"].shape[0]).expand(rows, -1)}
    if "lengths" in fields:
        longest = next((fields[key].shape[0] for key in ("waveform", "frames") if key in fields), 1)
        batch["lengths"] = torch.full_like(batch["lengths"], longest)
    return batch


def positions_per_row(run: Run, index: int) -> int:
    """Positions that a row of a stage counts as, padding included, for budgets and forecasts in tokens."""
    from ..model.graph import spent
    from .plan import meta_model

    data = run.data_section(index)
    if not gives_only_rows(data.train):
        return int(data.sequence)
    return max(1, int(spent(meta_model(run, index, torch.float32), example_batch(run.fields(index), 1))[0]))


def seconds_per_row(run: Run, index: int) -> float:
    """Length of audio in a row. Raises UserError where no source of the stage is sound."""
    seconds = float(run.data_of(index).train.seconds_per_row)
    if not seconds:
        raise UserError(f"stages.{index}.batch: a length of audio needs a source of audio, which this run has not")
    return seconds


def steps_in(run: Run, index: int, *, flops: float, seconds: float) -> float:
    """Optimizer steps that a stage's budget buys at so many FLOPs and seconds each; not before the first, so at least one."""
    budget = run.section.stages[index].budget
    rows = run.batch_rows(index)
    read = rows * math.prod(getattr(spec.build(), "reads", 1.0) for spec in run.section.stages[index].hooks)
    per_step = {
        "steps": lambda: 1.0,
        "rows": lambda: read,
        "tokens": lambda: rows * positions_per_row(run, index),
        "flops": lambda: flops,
        "seconds": lambda: seconds,
        "epochs": lambda: read / run.data_of(index).train.rows_per_epoch,
        "audio_seconds": lambda: rows * seconds_per_row(run, index),
    }[budget.unit]()
    return max(1.0, budget.value / per_step)


def needed(fields: dict[str, Any], reads: tuple[str, ...]) -> list[str]:
    """Keys that are read and not given."""
    return [key for key in reads if key not in fields]
