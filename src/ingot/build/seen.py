"""Which rows a run was shown at a step: found again from its recipe, its seed and the row number that its ledger has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import UserError
from ..data.open import HeldOutRows
from ..ledger.ledger import FILE, read_lines

if TYPE_CHECKING:
    from .run import Run


def seen(run: Run, step: int, most: int | None = None) -> dict[str, Any]:
    """The step's line of the ledger, and its rows: {row, source, epoch, id, where}, with the text of rows of tokens.

    most: give the first so many rows alone, of ``read_rows``. Raises UserError for a step that the ledger has not, and for data
    that are no longer those that the run read.
    """
    line = _line(run, step)
    index = run.data_index(line["stage"])
    data = run.data_of(index)
    _same(run, index, data.identity)
    stream = data.train
    read = line.get("read_rows", line["batch_rows"])
    rows = line["first_row"] + np.arange(read if most is None else min(read, most))
    source, epoch, ids = (found.tolist() for found in stream.locate(rows))
    names = stream.source_names
    found = [
        {"row": row, "source": names[k], "epoch": at, **_placed(stream.sources[names[k]], id)}
        for row, k, at, id in zip(rows.tolist(), source, epoch, ids, strict=True)
    ]
    if run.tokenizer is not None and "tokens" in stream.fields():
        batch = stream.take(rows)
        for one, tokens, segments in zip(found, batch["tokens"], batch["segments"], strict=True):
            one["text"] = run.tokenizer.decode(tokens[segments > 0])
    return {"step": line["step"], "loss": line["loss"], "read_rows": read, "trained_rows": line["batch_rows"], "rows": found}


def _line(run: Run, step: int) -> dict[str, Any]:
    lines = {line["step"]: line for line in read_lines(run.folder / FILE) if line["kind"] == "step"}
    if not lines:
        raise UserError(f"{run.folder / FILE} has no step")
    if step not in lines:
        near = min(lines, key=lambda number: abs(number - step))
        raise UserError(
            f"the ledger has no step {step}; it has {len(lines)} steps from {min(lines)} to {max(lines)}, the nearest is {near}"
        )
    if "first_row" not in lines[step]:
        raise UserError(f"step {step} was made by a version whose ledger does not say at which row a step begins")
    return lines[step]


def _same(run: Run, index: int, identity: Any) -> None:
    """Rows are those of the run only where the data are."""
    path = run.checkpoints.latest()
    kept = run.checkpoints.manifest(path)["plain"].get("extra", {}).get("rows", {}) if path else {}
    if kept.get(str(index), identity) != identity:
        raise UserError("the data have changed since the run read them: which rows it saw can no longer be told")


def _placed(source: Any, id: int) -> dict[str, Any]:
    """The number of a row in its source, those held out counted, and where it lies, for people."""
    where = str(source.where(id)) if hasattr(source, "where") else f"row {id}"
    return {"id": int(source.ids[id]) if isinstance(source, HeldOutRows) else id, "where": where}
