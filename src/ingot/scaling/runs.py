"""Measurements from run folders: their ledgers as a table, a row a run, or a row a step for the laws of whole curves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.quantities import parse_quantity
from ..core.recipe import load
from ..ledger.ledger import lived, read_lines, totals
from .table import Table, read

RECENT = 10  # logged steps whose middle one tells what a step spends now


def ledgers(paths: Iterable[str | Path]) -> list[Path]:
    """Every ledger.jsonl in the given folders, and below them. Raises UserError for a path without one."""
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [path] if path.suffix == ".jsonl" and path.is_file() else sorted(path.rglob("ledger.jsonl")) if path.is_dir() else []
        if not inside:
            raise UserError(f"{path} is no csv, and no folder with a run in it")
        found += inside
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    """The ledger's whole lines; a torn one at the end is passed over. Steps that were taken again, or rolled back, are not there twice."""
    if not path.is_file():
        raise UserError(f"cannot read {path}: there is no such file")
    try:
        return lived(read_lines(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from None


def curve(path: Path) -> Table:
    """step, lr, loss, tokens, flop of a run's steps, in order. Raises UserError when it has fewer than two."""
    steps = sorted(
        (line for line in lines(path) if line["kind"] == "step" and _number(line.get("loss")) is not None), key=lambda line: line["step"]
    )
    if len(steps) < 2:
        raise UserError(f"{path} has too few steps")
    columns = {"step": "step", "lr": "lr", "loss": "loss", "tokens": "tokens", "flop": "flops"}
    return {name: np.array([_number(line.get(key)) or 0.0 for line in steps]) for name, key in columns.items()}


def schedule(path: Path) -> Table:
    """step, lr, loss of a run folder, a ledger.jsonl, or a csv with these columns; rows of a ledger without a rate are left out."""
    path = path / "ledger.jsonl" if path.is_dir() else path
    found = curve(path) if path.suffix == ".jsonl" else read(path)
    if missing := [name for name in ("step", "lr", "loss") if name not in found]:
        raise UserError(f"{path} wants the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    keep = np.asarray(found["lr"], float) > 0 if path.suffix == ".jsonl" else np.ones(len(found["step"]), bool)
    if keep.sum() < 2:
        raise UserError(f"{path} has too few steps")
    return {name: np.asarray(found[name], float)[keep] for name in ("step", "lr", "loss")}


def step_at(share: float, ledger: Path, sofar: Table) -> float:
    """The step at a share (1: the end) of the budget in a run's own recipe. Raises UserError where steps cannot be told of the budget."""
    try:
        stages = load(ledger.parent / "recipe.yaml").tree["stages"]
        budgets = [parse_quantity(stage["budget"]) for stage in stages]
    except (KeyError, TypeError, ValueError, OSError, UserError) as error:
        raise UserError(f"{ledger.parent} has no recipe that tells its budget; give a step: {error}") from None
    unit, step = budgets[-1].unit, sofar["step"]
    spent = sofar.get({"steps": "step", "tokens": "tokens", "flops": "flop"}.get(unit, ""))
    if spent is None or any(one.unit != unit for one in budgets) or spent[-1] <= spent[0]:
        raise UserError(f"the budget is in {unit}, of which steps cannot be told; give a step")
    wanted = sum(one.value for one in budgets) * share
    if wanted <= spent[-1]:
        return float(np.interp(wanted, spent, step))
    # What the last steps spent, not the mean of all: the batch may have grown.
    return float(step[-1] + (wanted - spent[-1]) / np.median((np.diff(spent) / np.diff(step))[-RECENT:]))


def table(paths: Iterable[str | Path], *, curves: bool = False) -> Table:
    """A row for every finished run: run, params (at its end), tokens, flop, steps, seconds, batch (tokens), lr (the highest), loss, and loss_SOURCE.

    loss: the mean over the sources of the last evaluation. curves: the steps of all runs instead, with the column run. Raises UserError
    for runs that were never evaluated, or are not finished.
    """
    every = ledgers(paths)
    if curves:
        parts = [
            (path.parent.name, {name: column[one["lr"] > 0] for name, column in one.items()}) for path in every for one in (curve(path),)
        ]
        whole = {name: np.concatenate([one[name] for _, one in parts]) for name in parts[0][1]}
        return whole | {"run": np.concatenate([np.full(len(one["step"]), f"{index} {name}") for index, (name, one) in enumerate(parts)])}
    rows = [_row(path) for path in every]
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: np.array([row[name] for row in rows]) for name in names}


def _row(path: Path) -> dict[str, Any]:
    found = lines(path)
    steps = [line for line in found if line["kind"] == "step"]
    judged = [line for line in found if line["kind"] == "evaluation" and line.get("results")]
    if not steps or not judged:
        raise UserError(f"{path.parent} has no evaluation to fit")
    final = max(reversed(judged), key=lambda line: int(line["step"]))
    last = totals(found)
    if not last:
        raise UserError(f"{path.parent}: no line of its ledger tells tokens and FLOPs")
    if final["step"] != last["step"]:
        raise UserError(f"{path.parent} is not finished: its last evaluation is at step {final['step']}, its last step is {last['step']}")
    losses = {name: _number(result.get("loss")) for name, result in final["results"].items()}
    known = [value for value in losses.values() if value is not None]
    if not known:
        raise UserError(f"{path.parent}: the last evaluation has no loss")
    return {
        "run": str(path.parent),
        "params": _parameters(found),
        "tokens": float(last["tokens"]),
        "flop": float(last["flops"]),
        "steps": float(last["step"]),
        "seconds": float(last.get("seconds") or 0.0),
        "batch": float(last["tokens"]) / max(float(last["step"]), 1.0),
        "lr": max(float(line.get("lr") or 0.0) for line in steps),
        "loss": float(np.mean(known)),
    } | {f"loss_{name}": value for name, value in losses.items() if value is not None and len(losses) > 1}


def _parameters(found: list[dict[str, Any]]) -> float:
    """Of the model that was evaluated last: as the run began, or after its last transform."""
    start = next((line for line in found if line["kind"] == "start"), {})
    grown = [line["transform"]["after"]["parameters"] for line in found if line["kind"] == "event" and "after" in line.get("transform", {})]
    return float((grown[-1] if grown else start.get("parameters")) or np.nan)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
