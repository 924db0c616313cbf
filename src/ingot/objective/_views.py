"""Several looks of the same rows: ``x`` and ``x_1``, ``x_2`` of a batch, one below the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Tensor]
# Row numbers of different looks are this far apart, so that what is drawn by row differs between looks.
APART = 1 << 40


def count(batch: Batch) -> int:
    """Looks that a row has, at least 1."""
    views = {int(end) for _, _, end in (key.rpartition("_") for key in batch) if end.isdigit()}
    return 1 + max(views, default=0)


def look(batch: Batch, view: int) -> Batch:
    """The rows as seen the view-th time: x_1 in the place of x, and row numbers of its own. Without such a view: the first."""
    first = {key: value for key, value in batch.items() if not key.rpartition("_")[2].isdigit()}
    if not view:
        return first
    seen = {key.removesuffix(f"_{view}"): value for key, value in batch.items() if key.endswith(f"_{view}")}
    return first | seen | {"rows": torch.where(batch["rows"] >= 0, batch["rows"] + view * APART, batch["rows"])}


def looks(batch: Batch, views: Iterable[int]) -> Batch:
    """Rows of several views as one batch, (views B, ...), view by view."""
    found = [look(batch, view) for view in views]
    return {key: value if value.dim() == 0 else torch.cat([one[key] for one in found]) for key, value in found[0].items()}


def alike(batch: Batch, views: Iterable[int]) -> list[list[int]]:
    """The views in order, those side by side whose values have the same shapes together."""
    found: list[list[int]] = []
    last: list[torch.Size] = []
    for view in views:
        shapes = [value.shape for value in look(batch, view).values()]
        if found and shapes == last:
            found[-1].append(view)
        else:
            found.append([view])
        last = shapes
    return found


def refuse_one_view(name: str, context: dict[str, Any]) -> Iterable[str]:
    """Why a run cannot train on several looks of its rows."""
    run = context.get("run")
    if run is not None and all(data.views < 2 for data in [run.data, *(stage.data for stage in run.stages if stage.data is not None)]):
        yield f"{name} compares several looks of a row: set data.views to 2, and say in data.augment how they differ"
